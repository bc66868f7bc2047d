/**
 * The main program of a child process of life.test.ts: does what its argument says and prints one line of JSON
 * about what is left.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, Worker } from 'node:worker_threads'
import { addonPath, loadAddon } from '../addon.ts'
import type { NativeCheckpoint } from '../contract.ts'
import type { NativeRaw, RawCall } from '../raw-contract.ts'
import { bareSpec, createBare, runBare, startFork } from './bare-guest.ts'

function resources() {
  const threads = readdirSync('/proc/self/task').map((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, 'utf8').trim()
    } catch {
      return ''
    }
  })
  return {
    ...loadAddon().counts(),
    kvmFds: countFds(/kvm(?!itest)/),
    ramFds: countFds(/memfd:kvitest-ram/),
    guestThreads: threads.filter((name) => name.startsWith('kvitest-')).length,
    guestMappings: readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => line.includes('kvitest-ram') || line.includes('kvm-vcpu')).length,
  }
}

function countFds(pattern: RegExp): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return pattern.test(readlink(`/proc/self/fd/${fd}`))
    } catch {
      return false
    }
  }).length
}

function readlink(path: string): string {
  return process.getBuiltinModule('fs').readlinkSync(path)
}

/** What must not grow with the number of forks there have been. */
function growing() {
  const status = readFileSync('/proc/self/status', 'utf8')
  return {
    fds: readdirSync('/proc/self/fd').length,
    maps: readFileSync('/proc/self/maps', 'utf8').split('\n').length,
    tasks: readdirSync('/proc/self/task').length,
    rssMiB: Number(/^VmRSS:\s*(\d+)/m.exec(status)![1]) / 1024,
  }
}

/** Its machine is gone. */
async function checkpointOfSteps(): Promise<NativeCheckpoint> {
  const { machine } = await createBare(bareSpec('steps', 3))
  await machine.start()
  const checkpoint = await machine.checkpoint()
  await machine.stop()
  return checkpoint
}

async function startSpinning(): Promise<void> {
  const { machine, said } = await createBare(bareSpec('spin', 3))
  await machine.start()
  await said('debug', 'spinning')
}

/** Of this machine nobody keeps the handle, its listener neither. */
async function startForgotten(ended: string[]): Promise<void> {
  const spinning = Promise.withResolvers<void>()
  const machine = await loadAddon().createMachine(bareSpec('spin', 3), (event) => {
    if (event.type === 'data') spinning.resolve()
    if (event.type === 'end') ended.push(event.end.reason)
  })
  await machine.start()
  await spinning.promise
  await machine.inspect()
}

async function collect(): Promise<void> {
  const { gc } = globalThis
  if (!gc) throw new Error('run with --expose-gc')
  for (let i = 0; i < 100 && loadAddon().counts().machines > 0; i++) {
    gc()
    await sleep(20)
  }
}

/** A raw session with a vCPU in KVM_RUN that would not come back for an hour. */
async function startRaw(): Promise<NativeRaw> {
  const raw = await loadAddon().openRaw()
  const code = readFileSync(join(dirname(addonPath()), 'guests/raw/spin.bin'))
  const must = async (call: RawCall) => {
    const result = await raw.call(call)
    if (result.errno) throw new Error(`${call.do}: ${result.errno}`)
    return result
  }
  await must({ do: 'open', path: '/dev/kvm', as: 1 })
  await must({ do: 'ioctl', fd: 1, request: 0xae01, as: 2 })
  await must({ do: 'ioctl', fd: 2, request: 0xae41, as: 3 })
  await must({ do: 'map', fd: 3, bytes: 4096, as: 1 })
  await must({ do: 'map', bytes: 0x4000, as: 2 })
  await must({ do: 'write', memory: 2, offset: 0x1000, data: code })
  const region = new Uint8Array(32)
  region[17] = 0x40
  const patches = [{ at: 24, memory: 2 }]
  await must({ do: 'ioctl', fd: 2, request: 0x4020ae46, argument: region, patches })
  const { data: sregs } = await must({
    do: 'ioctl',
    fd: 3,
    request: 0x8138ae83,
    argument: new Uint8Array(312),
  })
  // cs: base, limit, selector
  await must({ do: 'ioctl', fd: 3, request: 0x4138ae84, argument: sregs!.fill(0, 0, 8).fill(0, 12, 14) })
  const regs = new Uint8Array(144)
  regs[129] = 0x10
  regs[136] = 2
  await must({ do: 'ioctl', fd: 3, request: 0x4090ae82, argument: regs })
  void raw.call({ do: 'run', vcpu: 3, area: 1, thread: 'vcpu', deadline: 3_600_000 }).catch(() => {})
  // Answered when it runs.
  await must({ do: 'signal', target: 'vcpu', count: 0 })
  return raw
}

/** A raw session with a VM, of which nobody keeps the handle. */
async function forgetRaw(): Promise<void> {
  const raw = await loadAddon().openRaw()
  await raw.call({ do: 'open', path: '/dev/kvm', as: 1 })
  await raw.call({ do: 'ioctl', fd: 1, request: 0xae01, as: 2 })
}

const modes: Record<string, () => Promise<unknown>> = {
  /** Ten guests run, are stopped, and everything is gone. */
  stop: async () => {
    const machines = await Promise.all(Array.from({ length: 10 }, () => createBare(bareSpec('spin', 3))))
    await Promise.all(machines.map(({ machine }) => machine.start()))
    await Promise.all(machines.map(({ said }) => said('debug', 'spinning')))
    const during = resources()
    await Promise.all(machines.map(({ machine }) => machine.stop()))
    return { during, after: resources() }
  },
  /** Guests that ended by themselves and were never stopped. */
  ended: async () => {
    const machines = await Promise.all(Array.from({ length: 10 }, () => createBare(bareSpec('hello'))))
    await Promise.all(machines.map(({ machine }) => machine.start()))
    await Promise.all(machines.map(({ ended }) => ended))
    for (let i = 0; i < 100 && loadAddon().counts().threads > 0; i++) await sleep(10)
    return { after: resources() }
  },
  /** Running guests that nobody holds. */
  collected: async () => {
    const ended: string[] = []
    for (let i = 0; i < 5; i++) await startForgotten(ended)
    const during = resources()
    await collect()
    return { during, ended, after: resources() }
  },
  /** An await for an event is all that is left of the machine's user, and survives every collection. */
  awaited: async () => {
    const { gc } = globalThis
    if (!gc) throw new Error('run with --expose-gc')
    const timer = setInterval(() => gc(), 5)
    const { end } = await runBare(bareSpec('calibrate_exits'))
    clearInterval(timer)
    return { reason: end.reason }
  },
  /** Machines that were created, never started, and are held by nobody but their own listeners. */
  unstarted: async () => {
    for (let i = 0; i < 5; i++) await createBare(bareSpec('spin'))
    const during = resources()
    await collect()
    return { during, after: resources() }
  },
  /** The process ends with running guests. */
  exit: async () => {
    for (let i = 0; i < 3; i++) await startSpinning()
    setTimeout(() => process.exit(0), 10)
    return { during: resources() }
  },
  /** Nothing but ended machines: the event loop drains by itself. */
  drain: async () => {
    const { end } = await runBare(bareSpec('hello'))
    return { reason: end.reason }
  },
  /** A rejected creation keeps nothing alive either. */
  refused: async () => {
    const code = await createBare(bareSpec('no-such-guest')).catch((error) => error.code)
    return { code, after: resources() }
  },
  /** A thousand forks, one after the other, each reset once; the first hundred are for caches to fill. */
  forks: async () => {
    const checkpoint = await checkpointOfSteps()
    const one = async () => {
      const fork = await startFork(checkpoint)
      await fork.machine.reset()
      await fork.machine.stop()
    }
    for (let i = 0; i < 100; i++) await one()
    globalThis.gc?.()
    const before = { ...resources(), ...growing() }
    for (let i = 0; i < 1000; i++) await one()
    globalThis.gc?.()
    const after = { ...resources(), ...growing() }
    checkpoint.release()
    return { before, after, released: resources() }
  },
  /** Checkpoints that nobody holds. */
  'collected-checkpoints': async () => {
    for (let i = 0; i < 5; i++) await checkpointOfSteps()
    const during = resources()
    const { gc } = globalThis
    if (!gc) throw new Error('run with --expose-gc')
    for (let i = 0; i < 100 && loadAddon().counts().checkpoints > 0; i++) {
      gc()
      await sleep(20)
    }
    return { during, after: resources() }
  },
  /** Worker threads are terminated in the middle of checkpoints, forks and resets. */
  'fork-workers': async () => {
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(new URL(import.meta.url), { argv: ['in-fork-worker'] })
      await new Promise((resolve, reject) => {
        worker.once('message', resolve)
        worker.once('error', reject)
      })
      await worker.terminate()
    }
    return { after: resources() }
  },
  'in-fork-worker': async () => {
    const { parentPort } = await import('node:worker_threads')
    const checkpoint = await checkpointOfSteps()
    const fork = await startFork(checkpoint)
    parentPort!.postMessage('running')
    for (;;) {
      void fork.machine.checkpoint().catch(() => {})
      void startFork(checkpoint)
      await fork.machine.reset().catch(() => {})
    }
  },
  /** Worker threads are terminated while their guests run and their promises are pending. */
  workers: async () => {
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(new URL(import.meta.url), { argv: ['in-worker'] })
      await new Promise((resolve, reject) => {
        worker.once('message', resolve)
        worker.once('error', reject)
      })
      await worker.terminate()
    }
    return { after: resources() }
  },
  'in-worker': async () => {
    const { parentPort } = await import('node:worker_threads')
    await startSpinning()
    const busy = await loadAddon().createMachine(bareSpec('flood'), () => {
      parentPort!.postMessage('running')
      // Terminated in the middle of a listener.
      for (;;);
    })
    for (let i = 0; i < 10; i++) void busy.inspect()
    await busy.start()
  },
  /** Raw sessions with a running vCPU are closed. */
  'raw-closed': async () => {
    const raws = await Promise.all(Array.from({ length: 5 }, startRaw))
    const during = resources()
    await Promise.all(raws.map((raw) => raw.close()))
    const refused = await raws[0]!.call({ do: 'eventfd', as: 9 }).catch((error) => error.code)
    return { during, refused, after: resources() }
  },
  /** Idle raw sessions that nobody holds. */
  'raw-collected': async () => {
    for (let i = 0; i < 5; i++) await forgetRaw()
    const during = resources()
    const { gc } = globalThis
    if (!gc) throw new Error('run with --expose-gc')
    for (let i = 0; i < 200 && resources().kvmFds > 0; i++) {
      gc()
      await sleep(20)
    }
    return { during, after: resources() }
  },
  /** The process ends while a vCPU of a raw session runs. */
  'raw-exit': async () => {
    await startRaw()
    setTimeout(() => process.exit(0), 10)
    return { during: resources() }
  },
  /** Worker threads are terminated while vCPUs of their raw sessions run. */
  'raw-workers': async () => {
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(new URL(import.meta.url), { argv: ['in-raw-worker'] })
      await new Promise((resolve, reject) => {
        worker.once('message', resolve)
        worker.once('error', reject)
      })
      await worker.terminate()
    }
    return { after: resources() }
  },
  'in-raw-worker': async () => {
    const { parentPort } = await import('node:worker_threads')
    await startRaw()
    parentPort!.postMessage('running')
  },
  /** Starts a child that asks to die with us, tells its pid, and is gone by SIGKILL without a word to it. */
  orphan: async () => {
    const child = spawn(process.execPath, ['--no-warnings', import.meta.filename, 'dies-with-parent'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    writeSync(1, JSON.stringify({ pid: child.pid }))
    process.kill(process.pid, 'SIGKILL')
  },
  'dies-with-parent': async () => {
    loadAddon().setParentDeathSignal(constants.signals.SIGKILL)
    await startSpinning()
    console.log('ready')
    await new Promise(() => {})
  },
  /** A throwing listener is an uncaught exception and stops nothing else. */
  throwing: async () => {
    const seen: string[] = []
    process.on('uncaughtException', (error) => seen.push(error.message))
    const machine = await loadAddon().createMachine(bareSpec('hello'), (event) => {
      throw new Error(`listener: ${event.type}`)
    })
    await machine.start()
    for (let i = 0; i < 500 && seen.at(-1) !== 'listener: end'; i++) await sleep(10)
    const end = await machine.stop()
    return { seen: seen.at(-1), reason: end.reason, after: resources() }
  },
}

const result = await modes[process.argv[2]!]!()
if (isMainThread) console.log(JSON.stringify(result))
