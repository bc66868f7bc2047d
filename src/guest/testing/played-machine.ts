import type { HostCheckpoint, HostMachine } from '../../host/machine-host.ts'
import type { DiskReport, MachineEnd, MachineEvent, MachineSpec } from '../../native/contract.ts'
import { encodeFrame, type Frame, FrameDecoder, text, textList, u32, u64 } from '../agent/frames.ts'
import { agentPort, exitKind, protocolVersion, toAgent, toHost } from '../agent/protocol.ts'
import { machineEnd } from './agent-machine.ts'

/**
 * A STAND-IN for a machine and its agent, for unit tests of forks only: the agent is played, because a process cannot
 * be forked as a guest can. It obeys at once; `exec hang` never ends. Every frame it got is in `frames`.
 */
export class PlayedMachine implements HostMachine {
  readonly ended: Promise<MachineEnd>
  readonly frames: Frame[] = []
  /** What checkpoint() gives; by default one that plays on. */
  readonly forks: PlayedMachine[] = []
  isMute = false
  released = 0
  readonly #onEvent: (event: MachineEvent) => void
  readonly #end = Promise.withResolvers<MachineEnd>()
  readonly #decoder = new FrameDecoder()
  readonly #spec: MachineSpec
  readonly #isFork: boolean
  #resets = 0

  constructor(spec: MachineSpec, onEvent: (event: MachineEvent) => void, isFork = false) {
    this.#spec = spec
    this.#onEvent = onEvent
    this.#isFork = isFork
    this.ended = this.#end.promise
  }

  async start(): Promise<void> {
    const greeting = [u32(protocolVersion), text('6.12-played'), textList([])]
    if (!this.#isFork) this.say(agentPort, encodeFrame(toHost.HELLO, 0, ...greeting))
  }

  async stop(): Promise<MachineEnd> {
    this.#end.resolve(machineEnd('stopped', 'stop() was called'))
    return await this.ended
  }

  say(channel: string, data: string | Buffer): void {
    this.#onEvent({ type: 'data', channel, data: Buffer.from(data) })
  }

  tell(event: MachineEvent): void {
    this.#onEvent(event)
  }

  async write(channel: string, data: Uint8Array): Promise<void> {
    if (channel !== agentPort) return
    for (const frame of this.#decoder.push(data)) {
      this.frames.push(frame)
      const resets = this.#resets
      if (this.isMute) continue
      // What the agent was about to do, a reset undoes.
      setImmediate(() => resets === this.#resets && this.#obey(frame))
    }
  }

  async checkpoint(): Promise<HostCheckpoint> {
    this.#onEvent({ type: 'mark', mark: 'checkpoint' })
    return {
      info: { spec: this.#spec, bytes: 4096 },
      fork: async (_options, onEvent) => {
        const fork = new PlayedMachine(this.#spec, onEvent, true)
        fork.isMute = this.isMute
        this.forks.push(fork)
        return fork
      },
      save: () => Promise.reject(new Error('a played machine has no memory to save')),
      saveCore: () => Promise.reject(new Error('a played machine has no memory to save')),
      release: async () => void this.released++,
    }
  }

  async reset(): Promise<void> {
    this.#resets++
    this.#onEvent({ type: 'mark', mark: 'reset' })
  }

  consumed(): void {}
  async setPortOpen(): Promise<void> {}
  async resize(): Promise<void> {}
  async vsockListen(): Promise<void> {}
  async vsockConnect(): Promise<string> {
    return ''
  }
  async vsockClose(): Promise<void> {}
  async setLink(): Promise<void> {}

  async unplug(): Promise<void> {}
  async nmi(): Promise<void> {}
  async sendBreak(): Promise<void> {}
  async fault(): Promise<void> {}
  async keepEnd(): Promise<void> {}
  async attachLun(): Promise<void> {}
  async detachLun(): Promise<void> {}
  async balloon(): Promise<never> {
    throw new Error('a played machine has no balloon')
  }
  async readDisk(): Promise<Uint8Array> {
    return new Uint8Array()
  }
  async writeDisk(): Promise<void> {}
  async resizeDisk(): Promise<void> {}
  async diskReport(): Promise<DiskReport> {
    return { bytes: 0, engine: 'vcpu', served: { vcpu: 0, threads: 0, io_uring: 0 } }
  }
  async privateMemory(): Promise<number> {
    return 0
  }

  async inspect() {
    return []
  }

  #obey({ type, id, payload }: Frame): void {
    const answer = (kind: number, ...fields: Buffer[]) =>
      this.say(agentPort, encodeFrame(kind, id, ...fields))
    if (type === toAgent.FORKED) answer(toHost.DONE)
    if (type === toAgent.PING) answer(toHost.PONG)
    if (type === toAgent.POWEROFF) this.#end.resolve(machineEnd('poweroff', 'ACPI S5'))
    if (type !== toAgent.EXEC) return
    answer(toHost.STARTED, u32(id))
    if (!payload.includes('hang')) answer(toHost.EXIT, u32(exitKind.EXITED), u32(0), u64(1000))
  }
}
