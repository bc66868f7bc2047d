import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import type { MachineSpec } from '../../native/contract.ts'
import { startLabs } from '../index.ts'
import type { HostMachine, MakerPlace } from '../machine-host.ts'
import { LabHost } from './client.ts'
import { LabConnection } from './connection.ts'
import { bare, finish, follow, type Run, start } from './testing/bare-run.ts'

/** QEMU processes below a process. */
function qemuChildren(parent: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
        const [state, ppid] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
        return Number(ppid) === parent && state !== 'Z' && stat.includes('(qemu-system')
      } catch {
        return false
      }
    })
}

describe.each(['debian:6.12-cloud', 'debian:6.1-cloud'])('a lab of %s', (kernel) => {
  let labs: Awaited<ReturnType<typeof startLabs>>
  let host: LabHost
  beforeAll(async () => {
    labs = await startLabs({ labs: 1 })
    host = await LabHost.connect(labs.socket, kernel)
  }, 180_000)
  afterAll(async () => {
    await host?.close()
    await labs?.close()
  })

  test('says what it is', () => {
    expect(host.info).toMatchObject({
      name: `lab:${kernel}`,
      kernelRelease: expect.stringMatching(kernel === 'debian:6.1-cloud' ? /^6\.1\./ : /^6\.12\./),
      kvm: { apiVersion: 12 },
    })
    expect(host.info.memory).toBeGreaterThan(2 ** 29)
  })

  test.for([0, 3] as const)('runs a bare guest in ring %d', async (ring) => {
    const run = await start(host, await bare('hello', ring))
    const end = await finish(run)
    expect(run.text()).toBe('hello from a bare guest\n')
    expect(end).toMatchObject({ reason: 'test-exit', code: 0 })
  })

  test('the end is the last event, once', async () => {
    const run = await start(host, await bare('hello'))
    await finish(run)
    expect(run.events.filter(({ type }) => type === 'end')).toEqual([run.events.at(-1)])
  })

  test('an exit code keeps its 32 bits', async () => {
    expect(await finish(await start(host, await bare('exit_code')))).toMatchObject({ code: 0xdeadbeef })
  })

  test('a triple fault is an end like others', async () => {
    expect((await finish(await start(host, await bare('triple_fault')))).reason).toBe('triple-fault')
  })

  test('a guest that spins can be looked at and stopped', async () => {
    const run = await start(host, await bare('spin'))
    await vi.waitFor(() => expect(run.text()).toBe('spinning\n'), 30_000)

    const [vcpu] = await run.machine.inspect()
    const end = await run.machine.stop()

    expect(vcpu?.registers.rbx).toBe('0x5917')
    expect(end.reason).toBe('stopped')
    expect(await run.machine.stop()).toEqual(end)
  })

  test('many guests at once', async () => {
    const specs = await Promise.all(Array.from({ length: 12 }, () => bare('hello')))
    const runs = await Promise.all(specs.map((spec) => start(host, spec)))
    const ends = await Promise.all(runs.map(finish))
    expect(ends.map(({ code }) => code)).toEqual(specs.map(() => 0))
  })

  test('a guest that runs a nested guest goes on inside it, in a fork and after a reset', async () => {
    const run = await start(host, await bare('nested'))
    const said = (one: Run, text: string) =>
      vi.waitFor(() => expect(one.text().slice(0, 99)).toBe(text), 30_000)
    const type = (one: Run, text: string) => one.machine.write('serial', new TextEncoder().encode(text))
    await type(run, '+v+')
    await said(run, 'AvB')

    const checkpoint = await run.machine.checkpoint()
    const fork = await follow((onEvent) => checkpoint.fork({}, onEvent))
    await type(fork, '+v+')
    await said(fork, 'CvD')
    await fork.machine.reset()
    await type(fork, '+')
    await said(fork, 'CvDC')
    await type(fork, 'x')
    await type(run, '+x')
    await checkpoint.release()

    expect(await finish(fork)).toMatchObject({ reason: 'test-exit', code: 3 })
    expect(await finish(run)).toMatchObject({ reason: 'test-exit', code: 3 })
    expect(run.text()).toBe('AvBC')
  })

  test('a payload that is none is refused by name of the operation', async () => {
    const spec = await bare('hello')
    const wrong: MachineSpec = { ...spec, payload: { kind: 'bare', elf: '/etc/hostname', ring: 0 } }
    await expect(host.createMachine(wrong, () => {})).rejects.toMatchObject({ name: 'KvitestError' })
  })

  test('a client killed with SIGKILL leaves no machine', async () => {
    const watcher = new LabConnection(labs.socket, () => {})
    onTestFinished(() => watcher.close())
    await watcher.open({ kernel, cpus: 0, memory: 0 })
    // A lab that was restored holds the checkpoints it was saved with: they stay.
    const before = await watcher.rpc.counts()
    expect(before.machines).toBe(0)
    const program = `
      import { LabHost } from ${JSON.stringify(new URL('client.ts', import.meta.url).href)}
      const host = await LabHost.connect(${JSON.stringify(labs.socket)}, ${JSON.stringify(kernel)})
      const machine = await host.createMachine(${JSON.stringify(await bare('spin'))}, () => console.log('event'))
      await machine.start()
    `
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    await new Promise((resolve) => child.stdout.once('data', resolve))
    expect((await watcher.rpc.counts()).machines).toBe(1)

    child.kill('SIGKILL')

    await vi.waitFor(async () => expect(await watcher.rpc.counts()).toEqual(before), 30_000)
  })

  test('a raw session ends with its client, whatever its threads do', async () => {
    const watcher = new LabConnection(labs.socket, () => {})
    onTestFinished(() => watcher.close())
    await watcher.open({ kernel, cpus: 0, memory: 0 })
    const before = await watcher.rpc.counts()
    const raw = await host.openRaw()
    const [opened, version] = await raw.batch([
      { do: 'open', path: '/dev/kvm', as: 1 },
      { do: 'ioctl', fd: 1, request: 0xae00 },
    ])
    expect([opened!.madeFd, version!.value]).toEqual([true, 12])
    // Waits for a call on a thread that there is not.
    const waiting = raw.batch([{ do: 'signal', target: 'nobody', deadline: 3_600_000 }])
    waiting.catch(() => {})
    expect((await watcher.rpc.counts()).rawSessions).toBe(before.rawSessions + 1)

    await raw.close()

    await expect(waiting).rejects.toMatchObject({ code: 'ECANCELED' })
    await vi.waitFor(async () => expect(await watcher.rpc.counts()).toEqual(before), 30_000)
  })
})

describe('a lab that dies', () => {
  test('ends its guests with the end of its console, and the next guest gets a new lab', async () => {
    const labs = await startLabs({ labs: 1 })
    onTestFinished(() => labs.close())
    const host = await LabHost.connect(labs.socket, 'debian:6.12-cloud')
    const run = await start(host, await bare('spin'))

    for (const pid of qemuChildren(process.pid)) process.kill(pid, 'SIGKILL')

    const error = await run.machine.ended.catch((caught: unknown) => caught)
    expect(error).toMatchObject({
      name: 'KvitestError',
      infra: true,
      message: expect.stringMatching(
        /^use a lab: lab:debian:6\.12-cloud#1 died: QEMU was ended by SIGKILL; its console/,
      ),
    })
    await expect(run.machine.inspect()).rejects.toThrow('died: QEMU was ended by SIGKILL')
    await expect(run.machine.stop()).rejects.toThrow('died: QEMU was ended by SIGKILL')
    expect(await finish(await start(host, await bare('hello')))).toMatchObject({ code: 0 })
  })
})

describe('the process that owns the labs', () => {
  const program = `
    import { startLabs } from ${JSON.stringify(new URL('../index.ts', import.meta.url).href)}
    const labs = await startLabs({ labs: 1 })
    console.log(labs.socket)
    setInterval(() => {}, 1000)
    process.on('SIGTERM', () => labs.close({ save: false }).then(() => process.exit(0)))
  `

  async function owner(): Promise<{ child: ChildProcess; socket: string }> {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    const socket = await new Promise<string>((resolve) =>
      child.stdout.once('data', (data) => resolve(String(data).trim())),
    )
    return { child, socket }
  }

  test.for(['SIGKILL', 'SIGTERM'] as const)(
    'takes them along on %s, and its clients are told',
    async (signal) => {
      const { child, socket } = await owner()
      const host = await LabHost.connect(socket, 'debian:6.12-cloud')
      const run = await start(host, await bare('spin'))
      const [qemu] = qemuChildren(child.pid!)
      expect(qemu).toBeGreaterThan(0)

      child.kill(signal)

      await expect(run.machine.ended).rejects.toMatchObject({ name: 'KvitestError', infra: true })
      await vi.waitFor(() => expect(() => process.kill(qemu!, 0)).toThrow('ESRCH'), 10_000)
    },
  )

  test('that is not there is named', async () => {
    await expect(LabHost.connect('/nowhere/labs.sock', 'debian:6.12-cloud')).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('reach the labs: /nowhere/labs.sock: nobody serves it'),
    })
  })
})

test('a lab of an unknown kernel says which there are', async () => {
  const labs = await startLabs()
  onTestFinished(() => labs.close())
  await expect(LabHost.connect(labs.socket, 'debian:5.4-cloud')).rejects.toThrow(
    'debian:5.4-cloud: no such kernel; known:',
  )
})

test('as many labs as allowed share the guests', async () => {
  const labs = await startLabs({ labs: 2, memory: 1 << 30 })
  onTestFinished(() => labs.close())
  const connections = Array.from({ length: 4 }, () => new LabConnection(labs.socket, () => {}))

  const opened = await Promise.all(
    connections.map((connection) =>
      connection.open({ kernel: 'debian:6.12-cloud', cpus: 1, memory: 64 << 20 }),
    ),
  )

  const names = opened.map(({ lab }) => lab).sort()
  expect(names).toEqual([
    'lab:debian:6.12-cloud#1',
    'lab:debian:6.12-cloud#1',
    'lab:debian:6.12-cloud#2',
    'lab:debian:6.12-cloud#2',
  ])
  for (const connection of connections) connection.close()

  // A fork beside a machine is made in its lab, which has the checkpoint, however busy that is.
  const host = await LabHost.connect(labs.socket, 'debian:6.12-cloud')
  const spec = await bare('spin')
  const makers: string[] = []
  const twin = (options: { beside?: HostMachine } = {}) => {
    const { cpus, memory } = spec
    const make = async (place: MakerPlace) => {
      makers.push('one')
      const machine = await place.createMachine(spec, () => {})
      await machine.start()
      await place.keep(await machine.checkpoint(), {})
      await machine.stop()
    }
    return host.forkCached({ key: 'twin', cpus, memory, options: {}, make, ...options }, () => {})
  }
  const first = await twin()
  const { lab } = first.machine as unknown as { lab: string }
  const busy = new LabConnection(labs.socket, () => {})
  await busy.open({ kernel: 'debian:6.12-cloud', cpus: 8, memory: 64 << 20, lab })
  const second = await twin({ beside: first.machine })
  expect(second.machine).toMatchObject({ lab })
  expect(makers).toEqual(['one'])
  busy.close()
  await host.close()
})
