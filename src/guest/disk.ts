import { createHash } from 'node:crypto'
import { resolve } from 'node:path'
import type { HostMachine } from '../host/machine-host.ts'
import { listDirectory } from '../image/directory.ts'
import { packagesDisk } from '../image/guest-packages.ts'
import { fileHash, textHash } from '../image/hash.ts'
import type { BlkDevice, DeviceSpec, DiskReport } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { GuestDisk } from './types.ts'

/** Of one call to a host, which may be a message to a lab. */
const pieceSize = 256 * 1024
/** Calls on their way at once. */
const window = 4

/** The host's side of one disk. */
export class MachineDisk implements GuestDisk {
  readonly name: string
  readonly #machine: () => HostMachine

  constructor(name: string, machine: () => HostMachine) {
    this.name = name
    this.#machine = machine
  }

  async size(): Promise<number> {
    return (await this.report()).bytes
  }

  async report(): Promise<DiskReport> {
    return await this.#machine().diskReport(this.name)
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = []
    for await (const part of this.#pieces(offset, length)) parts.push(part)
    return new Uint8Array(Buffer.concat(parts))
  }

  async write(offset: number, data: Uint8Array | string): Promise<void> {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data
    for (let at = 0; at < bytes.byteLength || at === 0; at += pieceSize) {
      await this.#machine().writeDisk(this.name, offset + at, bytes.subarray(at, at + pieceSize))
    }
  }

  async resize(bytes: number): Promise<void> {
    await this.#machine().resizeDisk(this.name, bytes)
  }

  async sha256(offset = 0, length?: number): Promise<string> {
    const hash = createHash('sha256')
    for await (const part of this.#pieces(offset, length ?? (await this.size()) - offset)) hash.update(part)
    return hash.digest('hex')
  }

  async *#pieces(offset: number, length: number): AsyncGenerator<Uint8Array> {
    const onTheWay: Promise<Uint8Array>[] = []
    for (let asked = 0; asked < length || asked === 0 || onTheWay.length > 0; ) {
      while ((asked < length || asked === 0) && onTheWay.length < window) {
        const part = this.#machine().readDisk(this.name, offset + asked, Math.min(pieceSize, length - asked))
        part.catch(() => {})
        onTheWay.push(part)
        asked += pieceSize
      }
      yield await onTheWay.shift()!
    }
  }
}

export function disksOf(devices: readonly DeviceSpec[]): BlkDevice[] {
  return devices.filter((device) => device.type === 'virtio-blk')
}

/** The devices with their files' paths seen from `folder`. */
export function placeDisks(devices: readonly DeviceSpec[], folder = '.'): DeviceSpec[] {
  return devices.map((device) => {
    if (device.type === 'virtio-9p') return { ...device, path: resolve(folder, device.path) }
    if (device.type !== 'virtio-blk' || 'memory' in device.backing) return device
    const { backing } = device
    if ('overlay' in backing) return { ...device, backing: { overlay: resolve(folder, backing.overlay) } }
    return { ...device, backing: { ...backing, file: resolve(folder, backing.file) } }
  })
}

/** The devices with their files' content in place of their paths: what a checkpoint was made of. */
export async function hashDisks(devices: readonly DeviceSpec[]): Promise<DeviceSpec[]> {
  const hash = (path: string) =>
    fileHash(path).catch((error: NodeJS.ErrnoException) => {
      if (error instanceof KvitestError) throw error
      throw new KvitestError('read a disk', `${path}: ${error.code ?? error.message}`, {
        code: error.code,
        infra: false,
      })
    })
  return await Promise.all(
    devices.map(async (device) => {
      if (device.type === 'virtio-9p') {
        return { ...device, path: textHash(JSON.stringify(await listDirectory(device.path))) }
      }
      if (device.type !== 'virtio-blk' || 'memory' in device.backing) return device
      const { backing } = device
      if ('overlay' in backing) return { ...device, backing: { overlay: await hash(backing.overlay) } }
      return { ...device, backing: { ...backing, file: await hash(backing.file) } }
    }),
  )
}

/**
 * A guest with the disk of its packages, behind its other disks, so that their names stay: drivers of virtio-mmio
 * find theirs after those of PCI.
 */
export function withPackages<T extends { devices: DeviceSpec[] }>(options: T, image: string): T {
  const hasMmio = disksOf(options.devices).some((disk) => disk.transport === 'mmio')
  const disk: BlkDevice = {
    type: 'virtio-blk',
    name: packagesDisk,
    serial: packagesDisk,
    backing: { overlay: image },
    readOnly: true,
    ...(hasMmio ? { transport: 'mmio' } : {}),
  }
  return { ...options, devices: [...options.devices, disk] }
}
