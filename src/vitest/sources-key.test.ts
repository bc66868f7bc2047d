import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { kvitest } from './plugin.ts'
import { sourcesKey } from './sources-key.ts'

test('another content is another key, the same content the same', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvitest-key-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'a.ts'), 'one')
  const first = sourcesKey(folder)
  expect(sourcesKey(folder)).toBe(first)
  writeFileSync(join(folder, 'a.ts'), 'two')
  expect(sourcesKey(folder)).not.toBe(first)
})

test('modules of scripts are kept by what makes them, those of others as vitest does', () => {
  type Generate = (context: { id: string }) => unknown
  let generate: Generate = () => 'none'
  const { configureVitest } = kvitest({ junit: false }) as unknown as {
    configureVitest: (context: object) => void
  }
  configureVitest({
    vitest: { vite: { config: {} }, config: { reporters: [], watch: false, root: '/' } },
    project: { config: { root: '/', env: {} }, name: 'p' },
    defineCacheKeyGenerator: (one: Generate) => {
      generate = one
    },
  })
  expect(generate({ id: '/a/b.tap.sh?x' })).toBe(sourcesKey(join(import.meta.dirname, 'transform')))
  expect(generate({ id: '/a/b.test.ts' })).toBeUndefined()
})
