import type { DeviceSpec, ScsiDevice, ScsiLun } from '../../native/contract.ts'
import { bytesOf } from '../../native/size.ts'
import { asList, asMap, asText, BadValue, knownKeys } from './value.ts'

const LUN_KEYS = ['name', 'memory', 'target', 'lun', 'readOnly', 'serial', 'blockSize']

/** A virtio-scsi of a header; without a name it is called scsi0, scsi1..., and its units lun0, lun1... by their place. */
export function parseScsi(
  map: Record<string, unknown>,
  path: (string | number)[],
  before: readonly DeviceSpec[],
): ScsiDevice {
  knownKeys(map, ['name', 'luns', 'queues', 'queueSize', 'backend'], path)
  const others = before.filter((device) => device.type === 'virtio-scsi')
  const name = asText(map.name ?? `scsi${others.length}`, [...path, 'name'])
  if (others.some((other) => other.name === name)) throw new BadValue(path, `two virtio-scsi named '${name}'`)
  const taken = others.reduce((count, { luns }) => count + luns.length, 0)
  const luns = asList(map.luns ?? [], [...path, 'luns']).map((lun, at) =>
    parseLun(
      asMap(lun, [...path, 'luns', at], 'a logical unit'),
      [...path, 'luns', at],
      at,
      `lun${taken + at}`,
    ),
  )
  const scsi: ScsiDevice = { type: 'virtio-scsi', name, luns }
  if (map.queues !== undefined) scsi.queues = wholeAt(map.queues, [...path, 'queues'], 1, 8)
  if (map.queueSize !== undefined) scsi.queueSize = wholeAt(map.queueSize, [...path, 'queueSize'], 1, 1024)
  if (map.backend !== undefined) {
    const at = [...path, 'backend']
    const { vhost, ...rest } = asMap(map.backend, at, 'backend')
    knownKeys(rest, [], at)
    if (luns.length > 0) throw new BadValue(at, 'backend: the luns are those of the target, give none')
    scsi.backend = { kind: 'vhost', wwpn: asText(vhost, [...at, 'vhost']) }
  }
  return scsi
}

function parseLun(
  map: Record<string, unknown>,
  path: (string | number)[],
  number: number,
  fallback: string,
): ScsiLun {
  knownKeys(map, LUN_KEYS, path)
  const memory = bytesOf(map.memory)
  if (!memory || memory % 512 !== 0) {
    throw new BadValue(
      [...path, 'memory'],
      `memory: want a size such as 64M, got ${JSON.stringify(map.memory)}`,
    )
  }
  const lun: ScsiLun = { name: asText(map.name ?? fallback, [...path, 'name']), memory, lun: number }
  if (map.lun !== undefined) lun.lun = wholeAt(map.lun, [...path, 'lun'], 0, 255)
  if (map.target !== undefined) lun.target = wholeAt(map.target, [...path, 'target'], 0, 7)
  if (map.serial !== undefined) lun.serial = asText(map.serial, [...path, 'serial'])
  if (map.blockSize !== undefined) lun.blockSize = wholeAt(map.blockSize, [...path, 'blockSize'], 512, 4096)
  if (map.readOnly !== undefined) {
    if (typeof map.readOnly !== 'boolean')
      throw new BadValue([...path, 'readOnly'], 'readOnly: want true or false')
    lun.readOnly = map.readOnly
  }
  return lun
}

function wholeAt(value: unknown, path: (string | number)[], low: number, high: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value
  throw new BadValue(path, `${path.at(-1)}: want ${low} to ${high}, got ${JSON.stringify(value)}`)
}
