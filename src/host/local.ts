import { availableParallelism, release, totalmem } from 'node:os'
import { loadAddon } from '../native/addon.ts'
import type {
  Channel,
  MachineEnd,
  MachineEvent,
  MachineSpec,
  NativeAddon,
  NativeMachine,
  VcpuState,
} from '../native/contract.ts'
import { type Calibration, calibrateLocal, canRunLinux } from './calibrate.ts'
import type { HostInfo, HostMachine, MachineHost } from './machine-host.ts'

class LocalMachine implements HostMachine {
  readonly ended: Promise<MachineEnd>
  readonly #native: NativeMachine
  readonly #onStopped: () => void

  constructor(native: NativeMachine, ended: Promise<MachineEnd>, onStopped: () => void) {
    this.#native = native
    this.ended = ended
    this.#onStopped = onStopped
  }

  start(): Promise<void> {
    return this.#native.start()
  }

  async stop(): Promise<MachineEnd> {
    const end = await this.#native.stop()
    this.#onStopped()
    return end
  }

  write(channel: Channel, data: Uint8Array): Promise<void> {
    return this.#native.write(channel, data)
  }

  consumed(channel: Channel, bytes: number): void {
    this.#native.consumed(channel, bytes)
  }

  setPortOpen(channel: Channel, open: boolean): Promise<void> {
    return this.#native.setPortOpen(channel, open)
  }

  resize(channel: Channel, columns: number, rows: number): Promise<void> {
    return this.#native.resize(channel, columns, rows)
  }

  inspect(): Promise<VcpuState[]> {
    return this.#native.inspect()
  }

  nmi(): Promise<void> {
    return this.#native.nmi()
  }
}

/** This machine's own /dev/kvm, driven by the addon in this process. */
export class LocalHost implements MachineHost {
  readonly info: HostInfo
  readonly calibration: Calibration
  readonly #addon: NativeAddon
  readonly #machines: Set<LocalMachine>

  private constructor(
    addon: NativeAddon,
    info: HostInfo,
    calibration: Calibration,
    machines: Set<LocalMachine>,
  ) {
    this.#addon = addon
    this.info = info
    this.calibration = calibration
    this.#machines = machines
  }

  /** Rejects with a KvitestError when there is no usable /dev/kvm (ENOENT, EACCES) or bare guests do not run on it. */
  static async open(): Promise<LocalHost> {
    const addon = loadAddon()
    const kvm = await addon.probe()
    const machines = new Set<LocalMachine>()
    const create = (spec: MachineSpec, onEvent: (event: MachineEvent) => void) =>
      createLocal(addon, machines, spec, onEvent)
    const calibration = await calibrateLocal({ createMachine: create })
    const info: HostInfo = {
      name: 'local',
      kernelRelease: release(),
      accelerator: canRunLinux(calibration).yes ? 'native' : 'software',
      cpus: availableParallelism(),
      memory: Math.floor(totalmem() * 0.8),
      kvm,
    }
    return new LocalHost(addon, info, calibration, machines)
  }

  createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<HostMachine> {
    return createLocal(this.#addon, this.#machines, spec, onEvent)
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#machines].map((machine) => machine.stop()))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

async function createLocal(
  addon: NativeAddon,
  machines: Set<LocalMachine>,
  spec: MachineSpec,
  onEvent: (event: MachineEvent) => void,
): Promise<HostMachine> {
  const end = Promise.withResolvers<MachineEnd>()
  const native = await addon.createMachine(spec, (event) => {
    onEvent(event)
    if (event.type === 'end') end.resolve(event.end)
  })
  const machine: LocalMachine = new LocalMachine(native, end.promise, () => machines.delete(machine))
  machines.add(machine)
  return machine
}
