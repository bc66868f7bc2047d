import type { HostMachine } from '../host/machine-host.ts'
import type { MachineEvent } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { agentPort } from './agent/protocol.ts'
import { MachineBalloon } from './balloon.ts'
import type { CheckedOptions } from './boot-options.ts'
import { disksOf, MachineDisk } from './disk.ts'
import { MachinePort } from './port.ts'
import { MachineScsi } from './scsi.ts'
import { MachineVsock } from './vsock.ts'

/** The host's ends of a guest's devices, by name. */
export class GuestDevices {
  readonly #guest: string
  readonly #machine: () => HostMachine
  readonly #ports: Map<string, MachinePort>
  readonly #disks: Map<string, MachineDisk>
  readonly #vsocks: Map<string, MachineVsock>
  readonly #leaving = new Map<string, PromiseWithResolvers<void>>()
  readonly #balloons: Map<string, MachineBalloon>
  readonly #scsis: Map<string, MachineScsi>

  /** `openPorts`: of a fork, what its guest has open from the start. */
  constructor(options: CheckedOptions, machine: () => HostMachine, openPorts: readonly string[]) {
    const vsocks = options.devices.filter((device) => device.type === 'virtio-vsock')
    this.#guest = options.name
    this.#machine = machine
    this.#ports = new Map(options.ports.map((name) => [name, new MachinePort(name, machine)]))
    this.#disks = new Map(
      disksOf(options.devices).map(({ name }) => [name, new MachineDisk(name, () => this.#machine())]),
    )
    this.#vsocks = new Map(vsocks.map(({ name }) => [name, new MachineVsock(name, machine)]))
    const balloons = options.devices.filter((device) => device.type === 'virtio-balloon')
    this.#balloons = new Map(balloons.map(({ name }) => [name, new MachineBalloon(name, machine)]))
    const scsis = options.devices.filter((device) => device.type === 'virtio-scsi')
    this.#scsis = new Map(scsis.map(({ name }) => [name, new MachineScsi(name, machine)]))
    for (const name of openPorts) this.#ports.get(name)?.guestOpened(true)
  }

  port(name: string): MachinePort {
    return this.#found('port', name, this.#ports, 'name it in the ports of a virtio-console device')
  }

  disk(name: string): MachineDisk {
    return this.#found('disk', name, this.#disks, 'name it in a virtio-blk device')
  }

  vsock(name: string): MachineVsock {
    return this.#found('vsock', name, this.#vsocks, 'name it in a virtio-vsock device')
  }

  async unplug(device: string, { surprise = false }: { surprise?: boolean }): Promise<void> {
    const refuse = (detail: string, code: string) =>
      new KvitestError(`unplug ${device}`, `${this.#guest}: ${detail}`, { code, infra: false })
    if (device === agentPort) throw refuse('the agent speaks through it', 'EINVAL')
    if (this.#leaving.has(device)) throw refuse('that is under way', 'EBUSY')
    const gone = Promise.withResolvers<void>()
    this.#leaving.set(device, gone)
    try {
      await Promise.all([this.#machine().unplug(device, surprise), gone.promise])
    } finally {
      this.#leaving.delete(device)
    }
  }

  balloon(name: string): MachineBalloon {
    return this.#found('balloon', name, this.#balloons, 'name it in a virtio-balloon device')
  }

  scsi(name: string): MachineScsi {
    return this.#found('virtio-scsi', name, this.#scsis, 'name it in a virtio-scsi device')
  }

  get openPorts(): string[] {
    return [...this.#ports.values()].filter((port) => port.open).map((port) => port.name)
  }

  /** False when it is not about one of them. Who reads their bytes says consumed() itself. */
  onEvent(event: MachineEvent): boolean {
    if (event.type === 'vsock') {
      this.#vsocks.get(event.device)?.onEvent(event)
      return true
    }
    if (event.type === 'unplugged') {
      this.#leaving.get(event.device)?.resolve()
      return true
    }
    if (event.type === 'port') {
      this.#ports.get(event.channel)?.guestOpened(event.open)
      return true
    }
    if (event.type !== 'data') return false
    const port = this.#ports.get(event.channel)
    if (port) port.receive(event.data)
    const vsock = port ? undefined : this.#vsocks.get(event.channel.slice(0, event.channel.lastIndexOf('#')))
    vsock?.receive(event.channel, event.data)
    return port !== undefined || vsock !== undefined
  }

  /** The guest went back to its checkpoint. */
  reset(openPorts: readonly string[]): void {
    for (const [name, port] of this.#ports) port.reset(openPorts.includes(name))
    for (const vsock of this.#vsocks.values()) vsock.reset()
  }

  end(reason: string): void {
    for (const port of this.#ports.values()) port.end(reason)
    for (const vsock of this.#vsocks.values()) vsock.end(reason)
    for (const [device, gone] of this.#leaving) {
      gone.reject(new KvitestError(`unplug ${device}`, reason, { code: 'EPIPE', infra: false }))
    }
  }

  #found<T>(kind: string, name: string, all: Map<string, T>, hint: string): T {
    const found = all.get(name)
    if (found) return found
    const known = [...all.keys()].join(', ') || 'none'
    throw new KvitestError(`${kind} ${name}`, `${this.#guest} has no such ${kind} (it has: ${known})`, {
      code: 'ENOENT',
      hint,
      infra: false,
    })
  }
}
