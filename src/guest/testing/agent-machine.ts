import type { HostCheckpoint, HostInfo, HostMachine } from '../../host/machine-host.ts'
import type { DiskReport, MachineEnd, MachineEvent, NmiOptions, VcpuState } from '../../native/contract.ts'
import { agentPort } from '../agent/protocol.ts'
import { LocalAgent } from './local-agent.ts'

export const standInHost: HostInfo = {
  name: 'stand-in',
  kernelRelease: '0.0-stand-in',
  accelerator: 'software',
  cpus: 1,
  memory: 2 ** 30,
  kvm: { apiVersion: 12, maxVcpus: 1 },
}

export function machineEnd(reason: MachineEnd['reason'], detail: string): MachineEnd {
  return { reason, detail, panicked: false, exits: {}, vcpus: [], elapsed: 0 }
}

export function vcpuState(registers: Record<string, string>, change: Partial<VcpuState> = {}): VcpuState {
  const quiet = { cpl: 0, pending: [], inService: [], nmiMasked: false }
  return { index: 0, registers, mpState: 'runnable', interruptsEnabled: true, ...quiet, ...change }
}

/**
 * A STAND-IN for a machine, for unit tests of LinuxGuest only: it boots nothing. Behind its agent port runs the real
 * agent, as a process of this machine; the test plays the rest of the guest.
 */
export class AgentMachine implements HostMachine, AsyncDisposable {
  readonly ended: Promise<MachineEnd>
  readonly consumedBytes = new Map<string, number>()
  readonly written: [channel: string, data: Uint8Array][] = []
  readonly nmis: NmiOptions[] = []
  breaks = 0
  /** What inspect() shows. */
  vcpus: VcpuState[] = [vcpuState({ rip: '0x1000' })]
  readonly agent: LocalAgent
  readonly #onEvent: (event: MachineEvent) => void
  readonly #end = Promise.withResolvers<MachineEnd>()
  readonly #talks: boolean
  #socket: Awaited<ReturnType<LocalAgent['socket']>> | undefined

  /** `talks` false: the agent is never heard. */
  constructor(onEvent: (event: MachineEvent) => void, talks = true) {
    this.#onEvent = onEvent
    this.#talks = talks
    this.ended = this.#end.promise
    this.ended.catch(() => {})
    this.agent = LocalAgent.start()
  }

  async start(): Promise<void> {
    if (!this.#talks) return
    const socket = await this.agent.socket()
    this.#socket = socket
    socket.on('data', (data) => this.say(agentPort, data as Buffer))
    // The agent is all that runs in this guest: its exit is the power-off.
    socket.on('close', () => this.end(machineEnd('poweroff', 'ACPI S5')))
  }

  async stop(): Promise<MachineEnd> {
    this.end(machineEnd('stopped', 'stop() was called'))
    return await this.ended
  }

  /** Something the guest says on a channel. */
  say(channel: string, data: string | Buffer): void {
    this.#onEvent({ type: 'data', channel, data: Buffer.from(data) })
  }

  end(end: MachineEnd): void {
    this.#end.resolve(end)
  }

  lose(error: Error): void {
    this.#end.reject(error)
  }

  write(channel: string, data: Uint8Array): Promise<void> {
    if (channel !== agentPort) {
      this.written.push([channel, data])
      return Promise.resolve()
    }
    return new Promise((resolve, reject) => {
      this.#socket!.write(data, (error) => (error ? reject(error) : resolve()))
    })
  }

  consumed(channel: string, bytes: number): void {
    this.consumedBytes.set(channel, (this.consumedBytes.get(channel) ?? 0) + bytes)
  }

  async setPortOpen(): Promise<void> {}
  async resize(): Promise<void> {}

  /** As Linux under kernel.panic_on_io_nmi. */
  async nmi(options: NmiOptions = {}): Promise<void> {
    this.nmis.push(options)
    this.say('serial', `[    9.000000] CPU: ${options.vcpu} PID: 1 Comm: x\n`)
    this.say('serial', '[    9.000001] RIP: 0010:told_by_nmi+0x1/0x20 [x]\n')
    this.say('serial', '[    9.000002] Kernel panic - not syncing: NMI IOCK error: Not continuing\n')
    this.#onEvent({ type: 'pvpanic', event: 1 })
    this.end(machineEnd('reset', 'i8042'))
  }

  /** As Linux whose console has a reader and whose vCPU takes interrupts. */
  async sendBreak(): Promise<void> {
    this.breaks++
    this.say('serial', '[    8.000000] sysrq: Show backtrace of all active CPUs\n')
    this.say(
      'serial',
      '[    8.000001] CPU: 0 PID: 1 Comm: x\n[    8.000002] WARNING: CPU: 0 PID: 1 at x.c:1 f\n',
    )
    this.say('serial', '[    8.000003] RIP: 0010:told_by_break+0x1/0x20\n')
  }

  async fault(): Promise<void> {}
  async keepEnd(): Promise<void> {}
  async vsockListen(): Promise<void> {}
  async vsockConnect(): Promise<string> {
    return ''
  }
  async vsockClose(): Promise<void> {}
  async setLink(): Promise<void> {}

  async unplug(): Promise<void> {}
  async attachLun(): Promise<void> {}
  async detachLun(): Promise<void> {}
  async balloon(): Promise<never> {
    throw new Error('a stand-in machine has no balloon')
  }
  async readDisk(): Promise<Uint8Array> {
    return new Uint8Array()
  }
  async writeDisk(): Promise<void> {}
  async resizeDisk(): Promise<void> {}
  async diskReport(): Promise<DiskReport> {
    return { bytes: 0, engine: 'vcpu', served: { vcpu: 0, threads: 0, io_uring: 0 } }
  }

  // A process cannot be forked as a guest can: played-machine.ts plays one that can.
  checkpoint(): Promise<HostCheckpoint> {
    return Promise.reject(new Error('a stand-in with a real agent has no checkpoint'))
  }

  reset(): Promise<void> {
    return Promise.reject(new Error('a stand-in with a real agent has no checkpoint'))
  }

  async privateMemory(): Promise<number> {
    return 0
  }

  async inspect(): Promise<VcpuState[]> {
    return this.vcpus
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.agent.child.kill('SIGCONT')
    await this.agent[Symbol.asyncDispose]()
  }
}
