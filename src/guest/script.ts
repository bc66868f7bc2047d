import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { KvitestError } from '../native/error.ts'
import type { Guest } from './types.ts'

export interface Script {
  /** A plain file name. */
  name: string
  data: Buffer
}

const inlineName = 'script'

/**
 * Reads what Guest.run() was given: text that begins with `#!`, text that begins with a newline (without `#!` in its
 * second line it is one for /bin/sh), or the path of a file. Rejects a script that no guest could run.
 */
export async function loadScript(script: string): Promise<Script> {
  if (script.startsWith('#!')) return checked(inlineName, inlineName, Buffer.from(script))
  if (script.startsWith('\n')) {
    const body = script.slice(1)
    const text = /^\s*#!/.test(body) ? body.trimStart() : `#!/bin/sh\n${body}`
    return checked(inlineName, inlineName, Buffer.from(body.trim() === '' ? '' : text))
  }
  if (script === '')
    throw refused('(empty string)', 'no script', 'give a path, or text that begins with #!', 'EINVAL')
  let data: Buffer
  try {
    data = await readFile(script)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const words: Record<string, string> = {
      ENOENT: 'no such file',
      EISDIR: 'a directory',
      EACCES: 'no permission to read it',
    }
    const hint = code === 'ENOENT' ? 'give a path, or text that begins with #! or a newline' : undefined
    throw refused(script, words[code ?? ''] ?? String(code), hint, code)
  }
  return checked(basename(script).replace(/[^\w.+-]/g, '_'), script, data)
}

/** What a script finds in its environment. */
export function scriptEnvironment(
  name: string,
  { cpus, memory }: { cpus: number; memory: number },
  { kernel, host }: Pick<Guest, 'kernel' | 'host'>,
): Record<string, string> {
  return {
    KVITEST_CPUS: String(cpus),
    KVITEST_MEMORY: String(memory),
    KVITEST_KERNEL: kernel.name,
    KVITEST_ACCELERATOR: host.accelerator,
    KVITEST_SCRIPT: name,
    KVITEST_VARIANT: '',
  }
}

/** Why no kernel could start this as a script, and the mend; undefined when it can be tried. */
export function scriptFault(data: Uint8Array, shown: string): { detail: string; hint: string } | undefined {
  const hint = 'begin it with #!/bin/sh'
  const first = Buffer.from(data.subarray(0, 256)).toString('latin1').split('\n')[0]!
  if (data.length === 0) return { detail: 'the script is empty', hint }
  if (!first.startsWith('#!')) return { detail: "the script's first line is not #!", hint }
  if (first.endsWith('\r')) {
    return { detail: 'the script has Windows line ends (CR LF)', hint: `sed -i 's/\\r$//' ${shown}` }
  }
  if (first.slice(2).trim() === '') return { detail: '#! names no interpreter', hint }
  return undefined
}

function checked(name: string, shown: string, data: Buffer): Script {
  const fault = scriptFault(data, shown)
  if (fault) throw refused(shown, fault.detail, fault.hint)
  return { name, data }
}

function refused(shown: string, detail: string, hint?: string, code = 'ENOEXEC'): KvitestError {
  return new KvitestError('run script', `${shown}: ${detail}`, { code, hint, infra: false })
}
