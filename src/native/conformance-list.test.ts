/** docs/conformance.md names what is there, and counts right. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../../', import.meta.url))
const list = readFileSync(join(root, 'docs/conformance.md'), 'utf8')
const rows = list.split('\n').filter((line) => /^\| *\d* *\|(?! *--)/.test(line))

const texts = (folder: string, pattern: RegExp) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => pattern.test(path))
    .map((path) => readFileSync(join(root, folder, path), 'utf8'))
    .join('\n')
const names = (text: string, call: RegExp) => new Set([...text.matchAll(call)].map(([, name]) => name))

const known = {
  native: names(texts('native', /_test\.cc$/), /TEST_CASE\(\s*"([^"]+)"/g),
  guest: names(texts('fixtures/guests', /^virtio_/), /CASE\(\s*"([^"]+)"/g),
}
const pointsOf = (script: string) =>
  names(readFileSync(join(root, `suites/virtio/${script}.tap.sh`), 'utf8'), /^ *\w+ "([^"]+)"/gm)

test('every test, case and point that is named exists', () => {
  const gone = rows.flatMap((row) =>
    [...row.matchAll(/(native|guest|script)(?: ([\w-]+))? "([^"]+)"/g)]
      .filter(([, kind, file, name]) =>
        kind === 'script' ? !pointsOf(file!).has(name) : !known[kind as 'native' | 'guest'].has(name),
      )
      .map(([check]) => check),
  )
  expect(gone).toEqual([])
})

test('every row says what checks it, or why nothing does; the count is right', () => {
  const covered = rows.filter((row) => /(native|guest|script)(?: [\w-]+)? "/.test(row))
  const open = rows.filter((row) => row.includes('*not checked*'))
  expect(rows.length).toBeGreaterThan(100)
  expect(rows.filter((row) => !covered.includes(row) && !open.includes(row))).toEqual([])
  expect(covered.filter((row) => open.includes(row))).toEqual([])
  expect(/\*\*Covered: (\d+) of (\d+)\.\*\*/.exec(list)?.slice(1)).toEqual([
    String(covered.length),
    String(rows.length),
  ])
  expect(rows.map((row) => Number(/^\| *(\d+)/.exec(row)?.[1]))).toEqual(rows.map((_, index) => index + 1))
})
