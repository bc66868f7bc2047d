import type { HostCheckpoint, HostInfo, HostMachine } from '../../host/machine-host.ts'
import type { MachineEnd, MachineEvent } from '../../native/contract.ts'
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

/**
 * A STAND-IN for a machine, for unit tests of LinuxGuest only: it boots nothing. Behind its agent port runs the real
 * agent, as a process of this machine; the test plays the rest of the guest.
 */
export class AgentMachine implements HostMachine, AsyncDisposable {
  readonly ended: Promise<MachineEnd>
  readonly consumedBytes = new Map<string, number>()
  readonly written: [channel: string, data: Uint8Array][] = []
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
  async vsockListen(): Promise<void> {}
  async vsockConnect(): Promise<string> {
    return ''
  }
  async vsockClose(): Promise<void> {}
  async setLink(): Promise<void> {}
  async nmi(): Promise<void> {}
  async readDisk(): Promise<Uint8Array> {
    return new Uint8Array()
  }
  async writeDisk(): Promise<void> {}
  async resizeDisk(): Promise<void> {}
  async diskSize(): Promise<number> {
    return 0
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

  async inspect() {
    return [{ index: 0, registers: { rip: '0x1000' }, mpState: 'runnable', interruptsEnabled: true }]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.agent.child.kill('SIGCONT')
    await this.agent[Symbol.asyncDispose]()
  }
}
