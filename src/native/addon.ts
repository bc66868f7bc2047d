import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import type {
  MachineEvent,
  MachineSpec,
  NativeAddon,
  NativeCheckpoint,
  NativeError,
  NativeMachine,
} from './contract.ts'
import { KvitestError } from './error.ts'
import type { NativeRaw } from './raw-contract.ts'

/** Path of the addon: `KVITEST_ADDON`, else what the build leaves in this package. */
export function addonPath(): string {
  const override = process.env.KVITEST_ADDON
  if (override) return resolve(override)
  return join(import.meta.dirname, '../../build/Release/kvitest.node')
}

let loaded: NativeAddon | undefined

/**
 * The native addon, loaded once for a thread. What it rejects with is a KvitestError.
 *
 * @throws KvitestError when it has not been built or does not load.
 */
export function loadAddon(): NativeAddon {
  loaded ??= wrapAddon(requireAddon(addonPath()))
  return loaded
}

function requireAddon(path: string): NativeAddon {
  if (!existsSync(path)) {
    throw new KvitestError('load the native addon', `${path} is not there`, {
      code: 'ENOENT',
      hint: 'run: npm run setup',
    })
  }
  try {
    return createRequire(import.meta.url)(path) as NativeAddon
  } catch (cause) {
    const reason = (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]!
    throw new KvitestError('load the native addon', reason, { hint: 'run: npm run setup', cause })
  }
}

/** A native rejection as the project's own error; anything else as it is. */
function toKvitestError(error: unknown): unknown {
  if (!(error instanceof Error) || !('operation' in error)) return error
  const { operation, code, hint, message } = error as NativeError
  const prefix = `${operation}: `
  const suffix = hint ? `; ${hint}` : ''
  const withoutPrefix = message.startsWith(prefix) ? message.slice(prefix.length) : message
  const detail =
    suffix && withoutPrefix.endsWith(suffix) ? withoutPrefix.slice(0, -suffix.length) : withoutPrefix
  return new KvitestError(operation, detail, { code, hint, cause: error })
}

async function converted<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise
  } catch (error) {
    throw toKvitestError(error)
  }
}

function throwing(call: () => void): void {
  try {
    call()
  } catch (error) {
    throw toKvitestError(error)
  }
}

function wrapMachine(machine: NativeMachine): NativeMachine {
  return {
    start: () => converted(machine.start()),
    stop: () => converted(machine.stop()),
    write: (channel, data) => converted(machine.write(channel, data)),
    consumed: (channel, bytes) => machine.consumed(channel, bytes),
    setPortOpen: (channel, open) => converted(machine.setPortOpen(channel, open)),
    resize: (channel, columns, rows) => converted(machine.resize(channel, columns, rows)),
    inspect: () => converted(machine.inspect()),
    privateMemory: () => converted(machine.privateMemory()),
    vsockListen: (device, port, on) => converted(machine.vsockListen(device, port, on)),
    vsockConnect: (device, port) => converted(machine.vsockConnect(device, port)),
    vsockClose: (channel, whole) => converted(machine.vsockClose(channel, whole)),
    setLink: (device, up) => converted(machine.setLink(device, up)),
    unplug: (device, surprise) => converted(machine.unplug(device, surprise)),
    attachLun: (device, lun) => converted(machine.attachLun(device, lun)),
    detachLun: (device, lun) => converted(machine.detachLun(device, lun)),
    balloon: (device, request) => converted(machine.balloon(device, request)),
    readDisk: (disk, offset, length) => converted(machine.readDisk(disk, offset, length)),
    writeDisk: (disk, offset, data) => converted(machine.writeDisk(disk, offset, data)),
    resizeDisk: (disk, bytes) => converted(machine.resizeDisk(disk, bytes)),
    diskReport: (disk) => converted(machine.diskReport(disk)),
    nmi: (options) => converted(machine.nmi(options)),
    sendBreak: () => converted(machine.sendBreak()),
    fault: (fault) => converted(machine.fault(fault)),
    keepEnd: () => converted(machine.keepEnd()),
    checkpoint: async () => wrapCheckpoint(await converted(machine.checkpoint())),
    reset: (options) => converted(machine.reset(options)),
  }
}

function wrapCheckpoint(checkpoint: NativeCheckpoint): NativeCheckpoint {
  return {
    info: checkpoint.info,
    fork: async (options, onEvent) => wrapMachine(await converted(checkpoint.fork(options, onEvent))),
    save: (path) => converted(checkpoint.save(path)),
    saveCore: (path) => converted(checkpoint.saveCore(path)),
    release: () => checkpoint.release(),
  }
}

function wrapRaw(raw: NativeRaw): NativeRaw {
  return {
    call: (call) => converted(raw.call(call)),
    close: () => converted(raw.close()),
  }
}

function wrapAddon(addon: NativeAddon): NativeAddon {
  return {
    version: addon.version,
    probe: () => converted(addon.probe()),
    createMachine: async (spec: MachineSpec, onEvent: (event: MachineEvent) => void) =>
      wrapMachine(await converted(addon.createMachine(spec, onEvent))),
    loadCheckpoint: async (path) => wrapCheckpoint(await converted(addon.loadCheckpoint(path))),
    openRaw: async () => wrapRaw(await converted(addon.openRaw())),
    counts: () => addon.counts(),
    setParentDeathSignal: (signal) => throwing(() => addon.setParentDeathSignal(signal)),
    addEntropy: (data) => throwing(() => addon.addEntropy(data)),
    setClock: (now) => throwing(() => addon.setClock(now)),
    readTsc: () => addon.readTsc(),
  }
}
