/** A run with room for one guest at a time, as its person sees it in CI. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root, startMarked } from './marked-process.ts'

const config = `import { defineKvitestConfig } from 'kvitest/vitest'

export default defineKvitestConfig(
  { include: ['*.tap.sh'], kernels: ['debian:6.12-cloud'], junit: false },
  { test: { maxWorkers: 3 } },
)
`
const script = (name: string) => `#!/bin/sh
. /lib/kvitest/tap.sh
echo '<1>hello from ${name}' > /dev/kmsg
pass "done"
done_testing
`

test('three guests start one after the other, in order; each event is a line, and so is the console of one', async () => {
  await mkdir(join(root, '.kvitest'), { recursive: true })
  const place = await mkdtemp(join(root, '.kvitest/budget-'))
  try {
    await writeFile(join(place, 'vitest.config.ts'), config)
    for (const name of ['a', 'b', 'c']) await writeFile(join(place, `${name}.tap.sh`), script(name))
    const { status, stdout, stderr } = await startMarked(['vitest', 'run', '--root', place], {
      env: {
        // A budget of its own.
        XDG_RUNTIME_DIR: place,
        KVITEST_BUDGET_CPUS: '1',
        KVITEST_LOG: 'events',
        KVITEST_CONSOLE: 'b.tap.sh*',
      },
    }).finished
    expect(status, stdout + stderr).toBe(0)
    const events = [...stderr.matchAll(/^kvitest {2}guest (\w)\.tap\.sh (waits|starts|runs|ended)/gm)]
    const of = (state: string) => events.filter(([, , word]) => word === state).map(([, name]) => name)
    const alive = events.map(([, , word]) => (word === 'starts' ? 1 : word === 'ended' ? -1 : 0))
    const most = Math.max(...alive.map((_, at) => alive.slice(0, at + 1).reduce<number>((a, b) => a + b, 0)))
    expect(most).toBe(1)
    expect(of('starts').filter((name) => of('waits').includes(name))).toEqual(of('waits'))
    expect(of('waits').length).toBeGreaterThan(0)
    expect(of('ended').toSorted()).toEqual(['a', 'b', 'c'])
    expect(stderr).toMatch(/^b\.tap\.sh \| .*hello from b$/m)
    expect(stderr).not.toMatch(/^[ac]\.tap\.sh \|/m)
    expect(stdout).toMatch(/3 leases \([12] waited, \d+\.\d s at most\)$/m)
  } finally {
    await rm(place, { recursive: true })
  }
})
