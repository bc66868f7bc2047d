import type { BlkDevice, DeviceSpec, DiskBacking } from '../../native/contract.ts'
import { bytesOf } from '../../native/size.ts'
import { asText, BadValue, knownKeys } from './value.ts'

const KEYS = ['name', 'memory', 'overlay', 'readOnly', 'serial', 'queues', 'queueSize', 'blockSize']
const NUMBERS = ['queues', 'queueSize', 'blockSize'] as const

/** A virtio-blk of a header; without a name it is called disk0, disk1... */
export function parseDisk(
  map: Record<string, unknown>,
  path: (string | number)[],
  before: readonly DeviceSpec[],
): BlkDevice {
  knownKeys(map, KEYS, path)
  const disks = before.filter((device) => device.type === 'virtio-blk')
  const name = map.name === undefined ? `disk${disks.length}` : asText(map.name, [...path, 'name'])
  if (disks.some((disk) => disk.name === name)) throw new BadValue(path, `two disks named '${name}'`)
  const disk: BlkDevice = { type: 'virtio-blk', name, backing: parseBacking(map, path) }
  if (map.serial !== undefined) disk.serial = asText(map.serial, [...path, 'serial'])
  if (disk.serial !== undefined && Buffer.byteLength(disk.serial) > 20) {
    throw new BadValue([...path, 'serial'], `serial: 20 bytes at most, got ${JSON.stringify(disk.serial)}`)
  }
  if (map.readOnly !== undefined) {
    if (typeof map.readOnly !== 'boolean')
      throw new BadValue([...path, 'readOnly'], 'readOnly: want true or false')
    disk.readOnly = map.readOnly
  }
  for (const key of NUMBERS) {
    const value = map[key]
    if (value === undefined) continue
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) {
      throw new BadValue([...path, key], `${key}: want a whole number, got ${JSON.stringify(value)}`)
    }
    disk[key] = value
  }
  return disk
}

function parseBacking({ memory, overlay }: Record<string, unknown>, path: (string | number)[]): DiskBacking {
  if ((memory === undefined) === (overlay === undefined)) {
    throw new BadValue(
      path,
      'a virtio-blk: want either memory (its size) or overlay (a file beside the script)',
    )
  }
  if (overlay !== undefined) return { overlay: asText(overlay, [...path, 'overlay']) }
  const bytes = bytesOf(memory)
  if (!bytes || bytes % 512 !== 0) {
    throw new BadValue([...path, 'memory'], `memory: want a size such as 64M, got ${JSON.stringify(memory)}`)
  }
  return { memory: bytes }
}
