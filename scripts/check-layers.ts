/**
 * Holds the house rules that a compiler cannot: imports and includes go downward only, as each folder's DEPS
 * file says; one folder alone touches each foreign interface; no file grows past the limit.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')
const lineLimit = 520

/** Foreign interfaces with a single user, by the text that imports them. */
const soleUsers: { pattern: RegExp; scope: string; folder: string }[] = [
  { pattern: /#include\s*<linux\/kvm\.h>/, scope: 'native', folder: 'kvm' },
  { pattern: /#include\s*<napi\.h>/, scope: 'native', folder: 'binding' },
  { pattern: /from '(vitest|vitest\/.*|@vitest\/.*)'/, scope: 'src', folder: 'vitest' },
]

function filesUnder(folder: string, extensions: string[]): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && extensions.some((extension) => entry.name.endsWith(extension)))
    .map((entry) => join(entry.parentPath, entry.name))
}

function readDeps(folder: string): Set<string> {
  const lines = readFileSync(join(folder, 'DEPS'), 'utf8').split('\n')
  return new Set(lines.map((line) => line.trim()).filter((line) => line && !line.startsWith('#')))
}

function isTest(file: string): boolean {
  return (
    /(_test\.cc|\.test\.ts)$/.test(file) || file.includes('/testing/') || /test_[a-z]+\.(h|cc)$/.test(file)
  )
}

/** The folder directly below `base` that holds `path`, or undefined when the path lies directly in `base`. */
function topFolder(base: string, path: string): string | undefined {
  const [first, second] = relative(base, path).split('/')
  return second === undefined ? undefined : first
}

function checkTree(scope: 'native' | 'src', extensions: string[], imports: RegExp): string[] {
  const base = join(root, scope)
  const problems: string[] = []
  for (const file of filesUnder(base, extensions)) {
    const name = relative(root, file)
    const text = readFileSync(file, 'utf8')
    const lines = text.split('\n').length
    if (lines > lineLimit) problems.push(`${name}: ${lines} lines; the limit is ${lineLimit}, split it`)

    const folder = topFolder(base, file)
    for (const rule of soleUsers) {
      if (rule.scope === scope && rule.folder !== folder && !isTest(file) && rule.pattern.test(text)) {
        problems.push(`${name}: only ${scope}/${rule.folder} may use ${rule.pattern.source}`)
      }
    }
    if (folder === undefined) continue
    const allowed = readDeps(join(base, folder))
    for (const match of text.matchAll(imports)) {
      const target = match[1]!.startsWith('.') ? resolve(dirname(file), match[1]!) : join(root, match[1]!)
      const to = topFolder(base, target)
      if (to === undefined || to === folder || allowed.has(to) || isTest(file)) continue
      problems.push(`${name}: may not reach ${scope}/${to}; ${scope}/${folder}/DEPS does not list it`)
    }
  }
  return problems
}

/** No device includes another: each folder of native/virtio stands alone on the transport's headers. */
function checkDevices(): string[] {
  const base = join(root, 'native/virtio')
  return filesUnder(base, ['.h', '.cc']).flatMap((file) => {
    const device = topFolder(base, file)
    if (device === undefined) return []
    const text = readFileSync(file, 'utf8')
    return [...text.matchAll(/#include "native\/virtio\/([a-z0-9_]+)\//g)]
      .filter((match) => match[1] !== device)
      .map((match) => `${relative(root, file)}: a device may not include another (${match[1]})`)
  })
}

const problems = [
  ...checkTree('native', ['.h', '.cc', '.c'], /#include "(native\/[^"]+)"/g),
  ...checkTree('src', ['.ts'], /(?:from|import)\s*\(?\s*'(\.[^']+)'/g),
  ...checkDevices(),
]
for (const problem of problems) console.error(problem)
console.log(`layers: ${problems.length === 0 ? 'clean' : `${problems.length} problems`}`)
process.exitCode = problems.length === 0 ? 0 : 1
