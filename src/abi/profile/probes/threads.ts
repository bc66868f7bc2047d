import { setTimeout as sleep } from 'node:timers/promises'
import type { RawCall, RawHandle } from '../../../native/raw-contract.ts'
import { catalogue } from '../../catalogue/catalogue.ts'
import type { Entries, ProbeSession } from '../session.ts'

const rounds = 3
/** Milliseconds in which no thread may begin or end, and for how long that is waited for. */
const quiet = 100
const waits = 20

/** Threads of what was closed before may still be ending. */
async function untilQuiet(session: ProbeSession): Promise<void> {
  let last = -1
  for (let wait = 0; wait < waits; wait++) {
    const [count] = await session.calls([{ do: 'countThreads' }])
    if (count!.value === last) return
    last = count!.value
    await sleep(quiet)
  }
}

/**
 * Threads that KVM puts into the process: when it makes a VM, and at the first KVM_RUN (6.13 did the former, later ones
 * the latter: d96c77bd4eeb, 931656b9e2ff). The fewest of some rounds, because a thread of our own may start in one.
 */
export async function threads(session: ProbeSession): Promise<Entries> {
  const found = { 'create-vm': [] as number[], run: [] as number[] }
  const fds: RawHandle[] = []
  await untilQuiet(session)
  for (let round = 0; round < rounds; round++) {
    const [vm, vcpu, area] = [session.kvm.nextHandle(), session.kvm.nextHandle(), session.kvm.nextHandle()]
    const make = (fd: RawHandle, ioctl: string, as: RawHandle): RawCall => ({
      do: 'ioctl',
      fd,
      request: catalogue.request(ioctl),
      as,
    })
    // One round trip, on one thread: nothing of ours begins in between.
    const answers = await session.calls([
      { do: 'countThreads' },
      make(session.system, 'KVM_CREATE_VM', vm),
      { do: 'countThreads' },
      make(vm, 'KVM_CREATE_VCPU', vcpu),
      { do: 'map', fd: vcpu, bytes: session.areaSize, shared: true, as: area },
      // Without memory it comes back at once, with an exit or an error.
      { do: 'run', vcpu, area },
      { do: 'countThreads' },
      { do: 'unmap', memory: area },
    ])
    fds.push(vcpu, vm)
    const [before, made, ran] = [0, 2, 6].map((at) => answers[at]!.value)
    found['create-vm'].push(made! - before!)
    found.run.push(ran! - made!)
  }
  // Only now: the thread of a VM that has just gone may end while the next one is made.
  await session.calls(fds.map((fd) => ({ do: 'close', fd })))
  return Object.fromEntries(
    Object.entries(found).map(([when, counts]) => [`threads.${when}`, Math.max(0, Math.min(...counts))]),
  )
}
