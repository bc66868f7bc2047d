/** `kvitest checkpoint`, as a person uses it: a real guest to a file and back. */
import { copyFileSync, mkdtempSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startMarked } from './marked-process.ts'

const kvitest = 'scripts/kvitest'
let folder: string
let file: string

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-checkpoint-'))
  file = join(folder, 'guest')
  const save = startMarked([
    ...[kvitest, 'checkpoint', 'save', '--memory', '128M', '-o', file],
    ...['--', 'sh', '-c', 'echo kept >/tmp/file; echo saved'],
  ])
  const result = await save.finished
  expect(result).toMatchObject({ status: 0, stdout: 'saved\n' })
  expect(await save.survivors()).toEqual([])
})

afterAll(() => rmSync(folder, { recursive: true }))

test('a command in the restored guest has its own streams and status', async () => {
  const run = startMarked([
    ...[kvitest, 'checkpoint', 'restore', file, '--memory', '128M'],
    ...['--', 'sh', '-c', 'cat /tmp/file; echo err >&2; exit 3'],
  ])
  const result = await run.finished
  expect(result).toMatchObject({ status: 3, stdout: 'kept\n' })
  expect(result.stderr.split('\n')).toContain('err')
  expect(await run.survivors()).toEqual([])
})

test('options that contradict the file are refused in one line', async () => {
  const result = await startMarked([kvitest, 'checkpoint', 'restore', file, '--cpus', '2', '--', 'true'])
    .finished
  expect(result.status).toBe(125)
  expect(result.stderr).toMatch(/^kvitest: .*has 1 vCPUs, 2 were asked for/m)
})

test('a truncated file is refused in one line, and nothing runs', async () => {
  const cut = join(folder, 'cut')
  copyFileSync(file, cut)
  truncateSync(cut, 1_000_000)
  const result = await startMarked([kvitest, 'checkpoint', 'restore', cut, '--', 'echo', 'ran']).finished
  expect(result).toMatchObject({ status: 125, stdout: '' })
  expect(result.stderr).toMatch(
    /^kvitest: restore a checkpoint: .*cut: no checkpoint of kvitest, or its end is missing/m,
  )
})

test('a guest whose command fails is not saved', async () => {
  const other = join(folder, 'other')
  const result = await startMarked([kvitest, 'checkpoint', 'save', '-o', other, '--', 'false']).finished
  expect(result.status).toBe(1)
  const restored = await startMarked([kvitest, 'checkpoint', 'restore', other, '--', 'true']).finished
  expect(restored.stderr).toMatch(/other: no such file/)
})
