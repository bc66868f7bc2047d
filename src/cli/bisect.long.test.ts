/** `kvitest bisect` over the builds that Debian serves: a real change of KVM between 6.1 and 6.12, found in labs. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { servedHosts } from '../matrix/served-hosts.ts'

const root = resolve(import.meta.dirname, '../..')

test('a thread of the kernel in the process comes with 6.12: the builds on both sides of that are found', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvitest-bisect-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const file = join(folder, 'm.matrix.ts')
  writeFileSync(
    file,
    `import { abiProbe, defineMatrix } from '${root}/src/vitest/matrix.ts'
defineMatrix({
  name: 'm',
  tools: [abiProbe({ version: '6.1', source: '${root}/fixtures/probes/in_process_thread.c' })],
  hosts: ['lab:debian:6.1-cloud@oldest', 'lab:debian:6.12-cloud'],
  baseline: { host: 'lab:debian:6.1-cloud@oldest' },
})
`,
  )
  const cell = 'lab:debian:6.12-cloud > probe-6.1'
  const kvitest = join(root, 'scripts/kvitest')
  const { status, stdout, stderr } = spawnSync(kvitest, ['bisect', '--json', file, cell], {
    encoding: 'utf8',
  })
  // Which builds there are changes; between the lines there is none.
  const [older, newer] = [await servedHosts(['6.1']), await servedHosts(['6.12'])]

  expect(status, stderr).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({
    points: ['it still is after KVM_RUN'],
    axis: 'host',
    minimal: `${newer[0]} > probe-6.1`,
    nearest: `${older.at(-1)} > probe-6.1`,
    skipped: [],
    outcomes: ['bad', 'good', 'bad'],
    verdict: 'found',
  })
})
