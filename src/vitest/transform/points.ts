import type { DeclaredPoint, DynamicPoint, ScriptPoints } from './script.ts'

const CALL =
  /^\s*(?:point|pass|fail|is|isnt|like|at_least|at_most|skip|todo)\s+(?:"((?:[^"\\]|\\.)*)"|'([^']*)')/
const DECLARATION = /^\s*(?:#|\/\/)\s*point:\s*(.+?)\s*$/
const HERE_DOCUMENT = /<<(-?)\s*(?:'([^']+)'|"([^"]+)"|\\?([A-Za-z_][A-Za-z0-9_]*))/

/** Finds the points that the text of a script shows, without running it. */
export function findPoints(text: string): ScriptPoints {
  const declared = new Map<string, DeclaredPoint>()
  const dynamic: DynamicPoint[] = []
  let terminator: { word: string; tabs: boolean } | undefined
  for (const [at, raw] of text.split('\n').entries()) {
    const line = raw.replace(/\r$/, '')
    if (terminator) {
      const candidate = terminator.tabs ? line.replace(/^\t+/, '') : line
      if (candidate === terminator.word) terminator = undefined
      continue
    }
    const declaration = DECLARATION.exec(line)?.[1]
    if (declaration) {
      add(declared, declaration, at + 1)
      continue
    }
    const call = CALL.exec(line)
    if (call) {
      const [, double, single] = call
      if (single !== undefined) add(declared, single, at + 1)
      else if (/[$`\\]/.test(double!)) dynamic.push({ prefix: double!.split(/[$`\\]/)[0]!, line: at + 1 })
      else add(declared, double!, at + 1)
    }
    const here = /^\s*#/.test(line) ? null : HERE_DOCUMENT.exec(line)
    if (here) terminator = { word: (here[2] ?? here[3] ?? here[4])!, tabs: here[1] === '-' }
  }
  return { declared: [...declared.values()], dynamic }
}

/** The line a point came from, by its name; undefined when nothing in the script resembles it. */
export function lineOf(points: ScriptPoints, name: string): number | undefined {
  const exact = points.declared.find((point) => point.name === name)
  if (exact) return exact.line
  const fitting = points.dynamic.filter((point) => name.startsWith(point.prefix))
  fitting.sort((a, b) => b.prefix.length - a.prefix.length)
  return fitting[0]?.line
}

function add(declared: Map<string, DeclaredPoint>, text: string, line: number): void {
  // As a TAP parser reads it back.
  const name = text.trim()
  if (name !== '' && !declared.has(name)) declared.set(name, { name, line })
}
