import { defaultIdleLimits, type IdleLimitOption } from '../../guest/idle-limits.ts'
import type { KernelEntry } from '../../image/boot-image.ts'
import type { ConsolePort, DeviceSpec } from '../../native/contract.ts'
import { bytesOf } from '../../native/size.ts'
import { parseBalloon } from './balloon-request.ts'
import { parseDisk } from './disk-request.ts'
import { parseNet, parseShare, parseVsock } from './net-request.ts'
import { parseDuration } from './quantity.ts'
import {
  CONTROLLED,
  FORK_MODES,
  type ForkMode,
  PEERS,
  type Peer,
  RINGS,
  type ScriptGuest,
  type ScriptPort,
  TRANSPORTS,
} from './script.ts'
import { parseScsi } from './scsi-request.ts'
import { asList, asMap, asText, BadValue, knownKeys } from './value.ts'

const KEYS = [
  'cpus',
  'memory',
  'kernel',
  'entry',
  'devices',
  'transport',
  'ring',
  'ports',
  'cmdline',
  'modules',
  'packages',
  'files',
  'bootTimeout',
  'idleLimit',
  'fork',
] as const
const ENTRIES: readonly KernelEntry[] = ['auto', 'pvh', 'bzimage']
const DEVICES = [
  'virtio-rng',
  'virtio-console',
  'virtio-blk',
  'virtio-net',
  'virtio-vsock',
  'virtio-balloon',
  'virtio-9p',
  'virtio-scsi',
]
const MIB = 1024 ** 2
const MAX_CPUS = 8
const parseTransport = choice('transport', TRANSPORTS)

export const DEFAULT_GUEST: ScriptGuest = {
  cpus: [1],
  memory: [256 * MIB],
  devices: [],
  transport: ['pci'],
  ring: ['split'],
  ports: [],
  modules: [],
  packages: [],
  files: {},
  fork: 'file',
}

/** The value of `# guest:` as a request; throws BadValue. */
export function parseGuest(value: unknown): ScriptGuest {
  const map = asMap(value, [], 'guest')
  for (const key of Object.keys(map)) {
    if (!KEYS.includes(key as (typeof KEYS)[number])) {
      throw new BadValue([key], `unknown key '${key}' in guest; known are ${KEYS.join(', ')}`)
    }
  }
  const ports: ScriptPort[] = []
  const devices = parseDevices(map.devices ?? [], ports)
  const extra = parsePorts(map.ports ?? [], ['ports'], ports)
  if (extra.length > 0) devices.push({ type: 'virtio-console', ports: extra })
  return {
    cpus: parseAxis(map.cpus ?? 1, 'cpus', parseCpus),
    memory: parseAxis(map.memory ?? '256M', 'memory', parseMemory),
    ...(map.kernel === undefined ? {} : { kernel: asText(map.kernel, ['kernel']) }),
    ...(map.entry === undefined ? {} : { entry: parseEntry(map.entry) }),
    devices,
    transport: parseAxis(map.transport ?? 'pci', 'transport', parseTransport),
    ring: parseAxis(map.ring ?? 'split', 'ring', choice('ring', RINGS)),
    ports,
    ...(map.cmdline === undefined ? {} : { cmdline: asText(map.cmdline, ['cmdline']) }),
    modules: asList(map.modules ?? [], ['modules']).map((name, at) => asText(name, ['modules', at])),
    packages: parsePackages(map.packages ?? []),
    files: parseFiles(map.files ?? {}),
    ...(map.bootTimeout === undefined ? {} : { bootTimeout: durationAt(map.bootTimeout, ['bootTimeout']) }),
    ...(map.idleLimit === undefined ? {} : { idleLimit: parseIdleLimit(map.idleLimit) }),
    fork: parseFork(map.fork ?? 'file'),
  }
}

export function durationAt(value: unknown, path: (string | number)[]): number {
  const duration = parseDuration(value)
  if (duration === undefined || duration === 0) {
    throw new BadValue(path, `want a duration such as 500ms, 60s or 5m, got ${JSON.stringify(value)}`)
  }
  return duration
}

/** One duration, or some of `{ boot, script, shutdown }`; `0s` never. */
function parseIdleLimit(value: unknown): IdleLimitOption {
  const limitAt = (one: unknown, path: string[]) => {
    const duration = parseDuration(one)
    if (duration !== undefined) return duration
    throw new BadValue(path, `want a duration such as 20s, or 0s for none, got ${JSON.stringify(one)}`)
  }
  if (typeof value !== 'object' || value === null) return limitAt(value, ['idleLimit'])
  const map = asMap(value, ['idleLimit'], 'idleLimit')
  knownKeys(map, Object.keys(defaultIdleLimits), ['idleLimit'])
  return Object.fromEntries(Object.entries(map).map(([key, one]) => [key, limitAt(one, ['idleLimit', key])]))
}

function parseAxis<T>(
  value: unknown,
  key: string,
  parse: (value: unknown, path: (string | number)[]) => T,
): T[] {
  if (!Array.isArray(value)) return [parse(value, [key])]
  if (value.length === 0) throw new BadValue([key], `an empty list of ${key}: no guest would run`)
  const values = value.map((one, at) => parse(one, [key, at]))
  if (new Set(values).size < values.length) throw new BadValue([key], `the same ${key} twice`)
  return values
}

function parseCpus(value: unknown, path: (string | number)[]): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > MAX_CPUS) {
    throw new BadValue(path, `cpus: want 1 to ${MAX_CPUS}, got ${JSON.stringify(value)}`)
  }
  return value
}

/** One of some words; `name` is the key's. */
function choice<T extends string>(name: string, known: readonly T[]) {
  return (value: unknown, path: (string | number)[]): T => {
    const found = known.find((one) => one === value)
    if (found) return found
    throw new BadValue(path, `${name}: want ${known.join(' or ')}, got ${JSON.stringify(value)}`)
  }
}

function parseEntry(value: unknown): KernelEntry {
  const entry = ENTRIES.find((one) => one === value)
  if (entry) return entry
  throw new BadValue(['entry'], `entry: want ${ENTRIES.join(', ')}, got ${JSON.stringify(value)}`)
}

function parseFork(value: unknown): ForkMode {
  const mode = FORK_MODES.find((one) => one === value)
  if (mode) return mode
  throw new BadValue(['fork'], `fork: want ${FORK_MODES.join(', ')}, got ${JSON.stringify(value)}`)
}

function parseMemory(value: unknown, path: (string | number)[]): number {
  const bytes = bytesOf(value)
  if (bytes === undefined || bytes % 4096 !== 0 || bytes < 64 * MIB || bytes > 8192 * MIB) {
    throw new BadValue(path, `memory: want 64M to 8G, got ${JSON.stringify(value)}`)
  }
  return bytes
}

function parseDevices(value: unknown, all: ScriptPort[]): DeviceSpec[] {
  const devices: DeviceSpec[] = []
  for (const [at, entry] of asList(value, ['devices']).entries()) {
    const path = ['devices', at]
    const device = typeof entry === 'string' ? { type: entry } : asMap(entry, path, 'a device')
    devices.push(parseDevice(device, path, all, devices))
  }
  return devices
}

function parseDevice(
  device: Record<string, unknown>,
  path: (string | number)[],
  all: ScriptPort[],
  before: DeviceSpec[],
): DeviceSpec {
  const { type, withoutFeatures, withFeatures, personality, transport, ...rest } = device
  const names = (value: unknown, key: string) => parseNames(value, [...path, key])
  const shared = {
    ...(withoutFeatures === undefined ? {} : { withoutFeatures: names(withoutFeatures, 'withoutFeatures') }),
    ...(withFeatures === undefined ? {} : { withFeatures: names(withFeatures, 'withFeatures') }),
    ...(personality === undefined ? {} : { personality: names(personality, 'personality') }),
    ...(transport === undefined ? {} : { transport: parseTransport(transport, [...path, 'transport']) }),
  }
  if (type === 'virtio-rng') {
    knownKeys(rest, [], path)
    return { type, ...shared }
  }
  if (type === 'virtio-console') {
    knownKeys(rest, ['ports'], path)
    return { type, ports: parsePorts(rest.ports ?? [], [...path, 'ports'], all), ...shared }
  }
  if (type === 'virtio-blk') return { ...parseDisk(rest, path, before), ...shared }
  if (type === 'virtio-vsock') return { ...parseVsock(rest, path, before), ...shared }
  if (type === 'virtio-9p') return { ...parseShare(rest, path, before), ...shared }
  if (type === 'virtio-net') return { ...parseNet(rest, path, before), ...shared }
  if (type === 'virtio-balloon') return { ...parseBalloon(rest, path, before), ...shared }
  if (type === 'virtio-scsi') return { ...parseScsi(rest, path, before), ...shared }
  throw new BadValue(path, `unknown device ${JSON.stringify(type)}; known are ${DEVICES.join(', ')}`)
}

function parseNames(value: unknown, path: (string | number)[]): string[] {
  return asList(value, path).map((name, at) => asText(name, [...path, at]))
}

function parsePorts(value: unknown, path: (string | number)[], all: ScriptPort[]): ConsolePort[] {
  return asList(value, path).flatMap((entry, at) => {
    const here = [...path, at]
    const map = typeof entry === 'string' ? { name: entry } : asMap(entry, here, 'a port')
    const { name, peer = 'sink', console = false, ...rest } = map
    knownKeys(rest, [], here)
    if (typeof name !== 'string' || !/^[A-Za-z0-9._-]{1,60}$/.test(name) || name.startsWith('org.kvitest.')) {
      throw new BadValue(here, `port name: want letters, digits, '.', '-', '_', got ${JSON.stringify(name)}`)
    }
    if (!PEERS.includes(peer as Peer)) {
      throw new BadValue(here, `unknown peer ${JSON.stringify(peer)}; known are ${PEERS.join(', ')}`)
    }
    if (typeof console !== 'boolean') throw new BadValue(here, 'console: want true or false')
    if (peer === 'terminal' && !console) {
      throw new BadValue(here, `port '${name}': the peer 'terminal' needs console: true`)
    }
    const port: ScriptPort = { name, peer: peer as Peer, console }
    const ports: ConsolePort[] = [{ name, ...(console ? { console } : {}) }]
    if (CONTROLLED.includes(port.peer)) ports.push({ name: `${name}.control` })
    for (const one of ports) {
      if (all.some((other) => other.name === one.name || `${other.name}.control` === one.name)) {
        throw new BadValue(here, `two ports named '${one.name}'`)
      }
    }
    all.push(port)
    return ports
  })
}

function parsePackages(value: unknown): string[] {
  return asList(value, ['packages']).map((name, at) => {
    const text = asText(name, ['packages', at])
    if (/^[a-z0-9][a-z0-9+.-]+$/.test(text)) return text
    throw new BadValue(['packages', at], `packages: want names of Debian packages, got '${text}'`)
  })
}

function parseFiles(value: unknown): Record<string, string> {
  const map = asMap(value, ['files'], 'files')
  for (const [guest, host] of Object.entries(map)) {
    if (!guest.startsWith('/'))
      throw new BadValue(['files', guest], `'${guest}' is no absolute path in the guest`)
    asText(host, ['files', guest])
  }
  return map as Record<string, string>
}
