import type {
  DeviceSpec,
  NetBackend,
  NetDevice,
  P9Device,
  VsockBackend,
  VsockDevice,
} from '../../native/contract.ts'
import { asMap, asText, BadValue, knownKeys } from './value.ts'

const KEYS = ['name', 'mac', 'mtu', 'queues', 'backend']

/** A virtio-net of a header; without a name it is called net0, net1... and without a backend it gets a peer. */
export function parseNet(
  map: Record<string, unknown>,
  path: (string | number)[],
  before: readonly DeviceSpec[],
): NetDevice {
  knownKeys(map, KEYS, path)
  const nets = before.filter((device) => device.type === 'virtio-net')
  const name = map.name === undefined ? `net${nets.length}` : asText(map.name, [...path, 'name'])
  if (nets.some((net) => net.name === name)) throw new BadValue(path, `two network devices named '${name}'`)
  const net: NetDevice = { type: 'virtio-net', name, backend: parseBackend(map.backend ?? 'peer', path) }
  if (map.mac !== undefined) {
    if (typeof map.mac !== 'string' || !/^[\da-f]{2}(:[\da-f]{2}){5}$/i.test(map.mac)) {
      throw new BadValue([...path, 'mac'], `mac: want '02:00:00:00:00:01', got ${JSON.stringify(map.mac)}`)
    }
    net.mac = map.mac
  }
  if (map.mtu !== undefined) net.mtu = wholeAt(map.mtu, [...path, 'mtu'], 68, 65535)
  if (map.queues !== undefined) net.queues = wholeAt(map.queues, [...path, 'queues'], 1, 8)
  return net
}

/** A virtio-vsock of a header; without a name it is called vsock0. Linux drives one in a guest. */
export function parseVsock(
  map: Record<string, unknown>,
  path: (string | number)[],
  before: readonly DeviceSpec[],
): VsockDevice {
  knownKeys(map, ['name', 'cid', 'backend'], path)
  if (before.some((device) => device.type === 'virtio-vsock'))
    throw new BadValue(path, 'a second virtio-vsock')
  const vsock: VsockDevice = { type: 'virtio-vsock', name: asText(map.name ?? 'vsock0', [...path, 'name']) }
  if (map.cid !== undefined) vsock.cid = wholeAt(map.cid, [...path, 'cid'], 3, 0xfffffffe)
  if (map.backend !== undefined) vsock.backend = parseVsockBackend(map.backend, [...path, 'backend'])
  return vsock
}

/** `streams`, `vhost` or `{ unix: PATH }`. */
function parseVsockBackend(value: unknown, path: (string | number)[]): VsockBackend {
  if (value === 'streams' || value === 'vhost') return { kind: value }
  if (typeof value !== 'object' || value === null)
    throw new BadValue(path, `backend: want streams, vhost or { unix: PATH }, got ${JSON.stringify(value)}`)
  const { unix, ...rest } = asMap(value, path, 'backend')
  knownKeys(rest, [], path)
  return { kind: 'unix', path: asText(unix, [...path, 'unix']) }
}

/** A virtio-9p of a header; without a tag it is called share. */
export function parseShare(
  map: Record<string, unknown>,
  path: (string | number)[],
  before: readonly DeviceSpec[],
): P9Device {
  knownKeys(map, ['tag', 'path', 'readOnly'], path)
  const tag = asText(map.tag ?? 'share', [...path, 'tag'])
  if (Buffer.byteLength(tag) > 31) throw new BadValue([...path, 'tag'], 'tag: 31 bytes at most')
  if (before.some((device) => device.type === 'virtio-9p' && device.tag === tag)) {
    throw new BadValue(path, `two virtio-9p tagged '${tag}'`)
  }
  const share: P9Device = { type: 'virtio-9p', tag, path: asText(map.path, [...path, 'path']) }
  if (map.readOnly === undefined) return share
  if (typeof map.readOnly !== 'boolean')
    throw new BadValue([...path, 'readOnly'], 'readOnly: want true or false')
  return { ...share, readOnly: map.readOnly }
}

function wholeAt(value: unknown, path: (string | number)[], low: number, high: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value
  throw new BadValue(path, `${path.at(-1)}: want ${low} to ${high}, got ${JSON.stringify(value)}`)
}

/** `peer`, `{ switch: NETWORK }`, or `{ tap: INTERFACE }`, that one with `vhost: true` or without. */
function parseBackend(value: unknown, path: (string | number)[]): NetBackend {
  if (value === 'peer') return { kind: 'peer' }
  const here = [...path, 'backend']
  if (typeof value === 'string')
    throw new BadValue(here, `backend: want peer, { switch: NAME } or { tap: NAME }, got '${value}'`)
  const { switch: network, tap, vhost, ...rest } = asMap(value, here, 'backend')
  knownKeys(rest, [], here)
  if (vhost !== undefined && (tap === undefined || typeof vhost !== 'boolean'))
    throw new BadValue([...here, 'vhost'], 'vhost: true or false, beside a tap')
  if (tap !== undefined) {
    if (network !== undefined) throw new BadValue(here, 'backend: switch or tap, not both')
    const backend: NetBackend = { kind: 'tap', interface: asText(tap, [...here, 'tap']) }
    return vhost ? { ...backend, vhost } : backend
  }
  return { kind: 'switch', network: asText(network, [...here, 'switch']) }
}
