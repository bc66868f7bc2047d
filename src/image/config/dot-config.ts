/** A kernel's configuration, as in .config, /boot/config-*, /proc/config.gz. */
import { KvitestError } from '../../native/error.ts'

export interface KernelConfig {
  /** Where it came from, for messages. */
  origin: string
  /** Values by symbol without `CONFIG_`: `y`, `m`, a number, a string; symbols that are not set are absent. */
  values: Map<string, string>
}

const least = 100

/**
 * Rejects what is no complete .config of an x86-64 kernel with a KvitestError of code EILSEQ: a line that is none,
 * one that was cut short, too few symbols, another architecture.
 */
export function parseConfig(text: string, origin: string): KernelConfig {
  const broken = (detail: string) =>
    new KvitestError('read the kernel configuration', `${origin}: ${detail}`, {
      code: 'EILSEQ',
      hint: 'give a whole .config, as the build made it',
      infra: false,
    })
  const values = new Map<string, string>()
  let seen = 0
  for (const [index, line] of text.split('\n').entries()) {
    const set = /^CONFIG_(\w+)=(y|m|n|-?\d+|0x[0-9a-fA-F]+|"(?:[^"\\]|\\.)*")\r?$/.exec(line)
    const unset = /^# CONFIG_(\w+) is not set\r?$/.exec(line)
    if (set || unset) seen++
    // The last line of a symbol counts, as for kconfig.
    if (set && set[2] !== 'n') values.set(set[1]!, set[2]!.replace(/^"(.*)"$/, '$1'))
    else if (set || unset) values.delete((set ?? unset)![1]!)
    else if (line.trim() !== '' && !line.startsWith('#')) {
      throw broken(`line ${index + 1} is no line of a .config: ${JSON.stringify(line.slice(0, 60))}`)
    }
  }
  if (seen < least) throw broken(`${seen} symbols, where a kernel's has thousands`)
  if (!values.has('X86_64')) throw broken('not of an x86-64 kernel (CONFIG_X86_64 is not set)')
  return { origin, values }
}
