import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { KernelInfo } from './kernel.ts'
import { loadOrder, moduleInfo } from './modules.ts'
import { resolveKernel } from './resolve.ts'

const agentModules = ['virtio_pci', 'virtio_console', 'virtio-rng']

describe('Debian 6.1, where virtio is modular', () => {
  let kernel: KernelInfo
  beforeAll(async () => {
    kernel = await resolveKernel('debian:6.1-cloud')
  }, 120_000)

  test('a module comes after all that it depends on', async () => {
    const order = await loadOrder(kernel, agentModules)

    const seen = new Set<string>()
    for (const module of order) {
      expect(module.depends.filter((name) => !seen.has(name))).toEqual([])
      seen.add(module.name)
    }
    expect([...seen]).toEqual(
      expect.arrayContaining(['virtio', 'virtio_ring', 'virtio_pci', 'virtio_console', 'virtio_rng']),
    )
  })

  test('an optional module that the kernel lacks is left out', async () => {
    expect(await loadOrder(kernel, ['no_such_module?'])).toEqual([])
  })

  test('a missing module is named with its configuration symbol and the kernel', async () => {
    const { modules: _, ...bare } = kernel
    await expect(loadOrder(bare, ['virtio_console'])).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringMatching(
        /virtio_console \(CONFIG_VIRTIO_CONSOLE\): kernel 6\.1\.\S+ has it neither/,
      ),
    })
  })
})

describe('Debian 6.12, where virtio is built in and modules are compressed', () => {
  let kernel: KernelInfo
  beforeAll(async () => {
    kernel = await resolveKernel('debian:6.12-cloud')
  }, 120_000)

  test('built-in modules fall away', async () => {
    const order = await loadOrder(kernel, agentModules)
    expect(order.map(({ name }) => name)).toEqual(['virtio_rng'])
  })

  test('a .ko.xz is decompressed, its name loses the suffix', async () => {
    const [module] = await loadOrder(kernel, ['virtio_rng'])
    expect(module?.path).toMatch(/virtio-rng\.ko$/)
    expect(moduleInfo(module!.data, 'virtio-rng.ko').get('name')).toEqual(['virtio_rng'])
  })

  test('an image without its modules directory still knows what is built in', async () => {
    const { modules: _, ...bare } = kernel
    expect(await loadOrder(bare, ['virtio_pci', 'virtio_console'])).toEqual([])
    await expect(loadOrder(bare, ['virtio_rng'])).rejects.toThrow('no modules directory beside it')
  })
})

test('a build tree lists objects, and modules lie beside them', async () => {
  const kernel = await resolveKernel('debian:6.1-cloud')
  const tree = await mkdtemp(join(tmpdir(), 'kvitest-tree-'))
  onTestFinished(() => rm(tree, { recursive: true }))
  await mkdir(join(tree, 'drivers'))
  await symlink(join(kernel.modules!, 'kernel/virt/lib/irqbypass.ko'), join(tree, 'drivers/irqbypass.ko'))
  await writeFile(join(tree, 'modules.order'), 'drivers/irqbypass.o\n')
  await writeFile(join(tree, 'modules.builtin'), 'drivers/virtio/virtio.ko\n')

  const order = await loadOrder({ ...kernel, modules: tree }, ['irqbypass', 'virtio'])

  expect(order.map(({ path }) => path)).toEqual(['drivers/irqbypass.ko'])
})

test('a file that is no module is named', () => {
  expect(() => moduleInfo(Buffer.from('no ELF'), '/m/x.ko')).toThrow(
    '/m/x.ko: not a 64-bit ELF kernel module',
  )
})
