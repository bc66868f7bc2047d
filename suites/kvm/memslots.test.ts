import { CAP, KVM } from 'kvitest'
import { describe } from 'vitest'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { pack } from './struct.ts'

const dirtyLog = 1
const readOnly = 2

describe('memslots', () => {
  const slots = documented('KVM_SET_USER_MEMORY_REGION')
  check('a slot is made', slots, (b) => b.slot({}), 0)
  check(
    'a slot is deleted by size 0',
    slots,
    async (b) => [await b.slot({}), await b.slot({ bytes: 0 })],
    [0, 0],
  )
  check(
    'a slot that is not there is not deleted',
    deFacto(slots.section),
    (b) => b.slot({ bytes: 0 }),
    'EINVAL',
  )
  check(
    'slots may not overlap',
    slots,
    async (b) => [await b.slot({}), await b.slot({ slot: 1, at: 0x3000 })],
    [0, 'EEXIST'],
  )
  check(
    'slots may touch',
    slots,
    async (b) => [await b.slot({}), await b.slot({ slot: 1, at: 0x4000 })],
    [0, 0],
  )
  check('a slot may move', slots, async (b) => [await b.slot({}), await b.slot({ at: 0x10000 })], [0, 0])
  check(
    'a slot may not change its size',
    slots,
    async (b) => [await b.slot({}), await b.slot({ bytes: 0x8000 })],
    [0, 'EINVAL'],
  )
  check(
    'a slot may not change its memory',
    deFacto(slots.section),
    async (b) => [await b.slot({}), await b.slot({ offset: 0x1000 })],
    [0, 'EINVAL'],
  )
  check(
    'a slot may not become read-only',
    deFacto(slots.section),
    async (b) => [await b.slot({}), await b.slot({ flags: readOnly })],
    [0, 'EINVAL'],
  )
  check(
    'a slot may get a dirty log',
    slots,
    async (b) => [await b.slot({}), await b.slot({ flags: dirtyLog })],
    [0, 0],
  )
  check(
    'the same slot twice is no change',
    deFacto(slots.section),
    async (b) => [await b.slot({}), await b.slot({})],
    [0, 0],
  )
  check(
    'unknown flags are refused',
    slots,
    async (b) => {
      const flags = [4, 8, 0x100, 0x8000_0000]
      const outcomes = []
      for (const flag of flags) outcomes.push(await b.slot({ flags: flag }))
      return outcomes
    },
    ['EINVAL', 'EINVAL', 'EINVAL', 'EINVAL'],
  )
  check('the size is whole pages', slots, (b) => b.slot({ bytes: 0x800 }), 'EINVAL')
  check('the guest address is page aligned', slots, (b) => b.slot({ at: 0x800 }), 'EINVAL')
  check('the memory is page aligned', slots, (b) => b.slot({ offset: 0x800 }), 'EINVAL')
  check(
    'a slot may not wrap around the end of addresses',
    slots,
    (b) => b.slot({ at: 0xffff_ffff_ffff_f000n, bytes: 0x2000 }),
    'EINVAL',
  )
  check(
    'a slot of more than 2^31 pages is refused',
    deFacto(slots.section),
    (b) => b.slot({ bytes: 1n << 46n }),
    'EINVAL',
  )
  check(
    'the last slot number is KVM_CAP_NR_MEMSLOTS - 1',
    slots,
    async (b) => {
      const count = Number(await b.vm(KVM.CHECK_EXTENSION, CAP.NR_MEMSLOTS))
      return [await b.slot({ slot: count - 1 }), await b.slot({ slot: count, at: 0x10000 })]
    },
    [0, 'EINVAL'],
  )
  check(
    'an address space that the VM has not is refused',
    slots,
    (b) => b.slot({ slot: 0x10000 * 7 }),
    'EINVAL',
  )
  check(
    'memory in the upper half is refused',
    deFacto(slots.section),
    (b) =>
      b.vm(
        KVM.SET_USER_MEMORY_REGION,
        pack(['u32', 0], ['u32', 0], ['u64', 0], ['u64', 0x1000], ['u64', 1n << 63n]),
      ),
    'EINVAL',
  )
  check('a region outside memory is EFAULT', slots, (b) => b.vm(KVM.SET_USER_MEMORY_REGION, 0), 'EFAULT')
  check(
    'one slot by several threads at once leaves one slot',
    deFacto(slots.section),
    async (b) => {
      const vm = await b.vmFd()
      const memory = await b.memory()
      const results = await b.kvm.batch([
        [0, 1, 2, 3].map(
          (slot) =>
            ({
              do: 'ioctl',
              fd: vm.handle,
              request: KVM.SET_USER_MEMORY_REGION,
              argument: pack(['u32', slot], ['u32', 0], ['u64', 0], ['u64', 0x1000], ['u64', 0]),
              patches: [{ at: 24, memory: memory.handle }],
              thread: `slot ${slot}`,
            }) as const,
        ),
      ])
      return results.map((result) => result.errno ?? result.value).sort()
    },
    [0, 'EEXIST', 'EEXIST', 'EEXIST'],
  )
})

describe('dirty log', () => {
  const log = documented('KVM_GET_DIRTY_LOG')
  check(
    'a slot without a dirty log has none',
    log,
    async (b) => {
      await b.slot({})
      const bitmap = await b.kvm.memory(4096)
      return b.vm(KVM.GET_DIRTY_LOG, pack(['u32', 0], ['u32', 0], ['u64', 0]), {
        patches: [{ at: 8, memory: bitmap }],
      })
    },
    'ENOENT',
  )
  check(
    'a slot beyond the last is refused',
    log,
    (b) => b.vm(KVM.GET_DIRTY_LOG, pack(['u32', 0x7fff], ['u32', 0], ['u64', 0])),
    'EINVAL',
  )
  check(
    'the pages that a guest wrote are in the log, once',
    log,
    async (b) => {
      await b.guest('store')
      await b.slot({ bytes: 0x8000, flags: dirtyLog })
      await b.exits(1)
      const bitmap = await b.kvm.memory(4096)
      const read = async () => {
        await b.vm(KVM.GET_DIRTY_LOG, pack(['u32', 0], ['u32', 0], ['u64', 0]), {
          patches: [{ at: 8, memory: bitmap }],
        })
        return (await bitmap.read(0, 1))[0]! & 0b1100
      }
      return [await read(), await read()]
    },
    [0b1100, 0],
  )
})
