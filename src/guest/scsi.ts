import type { HostMachine } from '../host/machine-host.ts'
import type { ScsiLun } from '../native/contract.ts'
import { MachineDisk } from './disk.ts'
import type { GuestDisk, GuestScsi } from './types.ts'

/** The host's side of a virtio-scsi device. */
export class MachineScsi implements GuestScsi {
  readonly name: string
  readonly #machine: () => HostMachine

  constructor(name: string, machine: () => HostMachine) {
    this.name = name
    this.#machine = machine
  }

  disk(lun: string): GuestDisk {
    return new MachineDisk(lun, this.#machine)
  }

  async attach(lun: ScsiLun): Promise<GuestDisk> {
    await this.#machine().attachLun(this.name, lun)
    return this.disk(lun.name)
  }

  async detach(lun: string): Promise<void> {
    await this.#machine().detachLun(this.name, lun)
  }
}
