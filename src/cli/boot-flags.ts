import type { ParseArgsOptionsConfig } from 'node:util'
import { type IdleLimitOption, idleLimitsOf } from '../guest/idle-limits.ts'
import type { BootOptions } from '../guest/types.ts'
import type { KernelEntry } from '../image/boot-image.ts'
import { KvitestError } from '../native/error.ts'

export const bootUsage = `  --kernel K     debian:6.12-cloud, debian:6.1-cloud, an exact build, or a path (default: $KVITEST_KERNEL)
  --host H       auto, local, lab or lab:KERNEL (default auto)
  --cpus N       virtual CPUs (default 1)
  --memory M     such as 256M or 2G (default 256M)
  --module M     load a kernel module too; may be repeated
  --package P    have a Debian package in the guest, with all that it depends on; may be repeated
  --file G=F     put file F of this machine at G in the guest; may be repeated
  --cmdline S    appended to the kernel command line
  --entry E      auto, pvh or bzimage: how the kernel is entered (default auto)
  --idle-limit L seconds of silence after which the guest hangs, or such as boot=60,script=20,shutdown=0
                 (default 20 each; 0 never)`

/** Options of the commands that boot a guest. */
export const bootFlags = {
  kernel: { type: 'string' },
  host: { type: 'string', default: 'auto' },
  cpus: { type: 'string' },
  memory: { type: 'string' },
  module: { type: 'string', multiple: true, default: [] },
  package: { type: 'string', multiple: true, default: [] },
  file: { type: 'string', multiple: true, default: [] },
  cmdline: { type: 'string' },
  entry: { type: 'string', default: 'auto' },
  'idle-limit': { type: 'string' },
} satisfies ParseArgsOptionsConfig

export interface BootFlags {
  kernel?: string | undefined
  cpus?: string | undefined
  memory?: string | undefined
  module: string[]
  package: string[]
  file: string[]
  cmdline?: string | undefined
  entry: string
  'idle-limit'?: string | undefined
}

/** `command` for errors: `kvitest run`. */
export function bootOptions(command: string, flags: BootFlags): BootOptions {
  return {
    cpus: parseCpus(command, flags.cpus) ?? 1,
    memory: flags.memory ?? '256M',
    modules: flags.module,
    packages: flags.package,
    files: Object.fromEntries(flags.file.map((argument) => parseFile(command, argument))),
    ...(flags.kernel ? { kernel: flags.kernel } : {}),
    entry: parseEntry(command, flags.entry),
    ...(flags.cmdline ? { cmdline: flags.cmdline } : {}),
    ...(flags['idle-limit'] === undefined ? {} : { idleLimit: parseIdleLimit(command, flags['idle-limit']) }),
  }
}

/** Milliseconds. */
export function parseIdleLimit(command: string, text: string): IdleLimitOption {
  const seconds = (value: string | undefined) =>
    value !== undefined && /^\d+(\.\d+)?$/.test(value) ? Number(value) * 1000 : Number.NaN
  const entries = text.split(',').map((part) => part.split('='))
  const limits = entries.map(([name, value]) => [name!, seconds(value)] as const)
  const option = text.includes('=') ? Object.fromEntries(limits) : seconds(text)
  if (typeof idleLimitsOf(option) !== 'string') return option
  throw new KvitestError(command, `--idle-limit ${text}`, {
    hint: 'give seconds, or such as boot=60,script=20,shutdown=0',
  })
}

export function parseCpus(command: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const cpus = Number(text)
  if (Number.isInteger(cpus) && cpus > 0) return cpus
  throw new KvitestError(command, `--cpus ${text}`, { hint: 'give a whole number from 1' })
}

/** Milliseconds. */
export function parseTimeout(command: string, text: string): number {
  const timeout = Number(text) * 1000
  if (timeout >= 0) return timeout
  throw new KvitestError(command, `--timeout ${text}`, { hint: 'give seconds' })
}

function parseEntry(command: string, text: string): KernelEntry {
  const entry = (['auto', 'pvh', 'bzimage'] as const).find((one) => one === text)
  if (entry) return entry
  throw new KvitestError(command, `--entry ${text}`, { hint: 'give auto, pvh or bzimage' })
}

function parseFile(command: string, argument: string): [string, string] {
  const split = argument.indexOf('=')
  if (split < 1) {
    throw new KvitestError(command, `--file ${argument}`, {
      hint: 'write --file /guest/path=./local-file',
    })
  }
  return [argument.slice(0, split), argument.slice(split + 1)]
}
