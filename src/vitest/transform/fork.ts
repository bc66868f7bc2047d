import { KvitestError } from '../../native/error.ts'
import type { ScriptPlan } from './script.ts'

const LIBRARY = /^\s*\.\s+["']?\/lib\/kvitest\/tap\.sh["']?\s*(?:[;&|#].*)?$/m
const DECLARATION = /^\s*(?:#|\/\/)\s*point:/

/**
 * `fork: point` runs a script once for each of its points, and only the shell library can leave the others out: what
 * it could not leave out, or nobody would run, is refused. Throws a KvitestError that names `file:line`.
 */
export function checkForkMode({ file, header, points }: ScriptPlan, text: string): void {
  if (header.guest.fork !== 'point') return
  const refuse = (line: number, detail: string, hint: string) =>
    new KvitestError(`${file}:${line}`, `fork: point: ${detail}`, { code: 'EINVAL', hint, infra: false })
  if (!LIBRARY.test(text)) {
    throw refuse(
      header.line,
      'the script does not use /lib/kvitest/tap.sh, which alone can run one point',
      "add '. /lib/kvitest/tap.sh', or use fork: file",
    )
  }
  const printed = text.split('\n').findIndex((line) => DECLARATION.test(line))
  if (printed >= 0) {
    throw refuse(
      printed + 1,
      'a point that another program prints cannot run alone',
      'make it with a call of tap.sh, or use fork: file',
    )
  }
  const dynamic = points.dynamic[0]
  if (dynamic) {
    throw refuse(
      dynamic.line,
      'a point whose name is made at run time cannot be asked for',
      'give it a literal name, or use fork: file',
    )
  }
  if (points.declared.length === 0) {
    throw refuse(header.line, 'the script declares no points', 'give its points literal names')
  }
}
