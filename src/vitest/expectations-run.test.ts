/** Expectations and vacuity, through real vitest processes; their guests are stand-ins (testing/process-host.ts). */
import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { TemporaryProject, type VitestRun } from './testing/run-vitest.ts'

const SCHEMA = resolve(import.meta.dirname, '../report/junit.xsd')
const WHY = 'reason: a known bug, link: "https://example.org/1"'
const LIVE = `${WHY}, expires: 2999-12-31`
/** Of one that starts several runs; they may have to share the machine. */
const PATIENCE = 300_000

function script(...lines: string[]): string {
  return `${['#!/bin/sh', ...lines].join('\n')}\n`
}

const DECLARED = script(
  '# point: good',
  '# point: bad',
  'echo 1..2',
  'echo "ok 1 - good"',
  'echo "not ok 2 - bad"',
  'exit 1',
)
/** The same with points that are found at run time. */
const FOUND = DECLARED.replaceAll(/# point.*\n/g, '')
const FIXED = DECLARED.replace('not ok', 'ok').replace('exit 1', 'exit 0')
const SPLAT = script('echo 1..1', 'echo "ok 1 - a"', 'exit 98')
const SKIPS = ['echo 1..1', 'echo "ok 1 - a # SKIP one CPU"']

function failures(...tests: string[]): string {
  return `failures:\n${tests.map((name) => `  - { test: ${JSON.stringify(name)}, ${LIVE} }`).join('\n')}\n`
}

function splats(expires: string): string {
  return `splats: [{ pattern: 'at drivers/stand-in', ${WHY}, expires: ${expires} }]`
}

function checkSchema(project: TemporaryProject): string {
  const file = join(project.folder, 'test-results/junit.xml')
  const { status, stderr } = spawnSync('xmllint', ['--noout', '--schema', SCHEMA, file], { encoding: 'utf8' })
  return status === 0 ? 'valid' : stderr
}

const typescript = `import { expect, test } from 'vitest'
const late = test.extend('late', async ({}, { onCleanup }) => {
  onCleanup(() => { throw new Error('too late') })
  return 1
})
test('bad', () => expect(1).toBe(2))
late('ends badly', ({ late }) => expect(late).toBe(1))
test.fails('the author says so', () => expect(1).toBe(2))
`

/** One folder a case, all in one run: an `*.expect.yaml` speaks of its own folder. */
const FILES = {
  'declared/a.tap.sh': DECLARED,
  'declared/x.expect.yaml': failures('a.tap.sh > bad'),
  'found/a.tap.sh': FOUND,
  'found/x.expect.yaml': failures('a.tap.sh > bad'),
  'deep/in/a.tap.sh': DECLARED,
  'deep/in/near.expect.yaml': failures('a.tap.sh > bad'),
  'deep/far.expect.yaml': failures('in/a.tap.sh > *d'),
  'listed/a.tap.sh': DECLARED,
  'known/other.yaml': failures('listed/*.tap.sh > bad'),
  'variant/a.tap.sh': script('# guest: { cpus: [1, 2] }', 'echo 1..1', 'echo "ok 1 - a"', 'exit 3'),
  'variant/x.expect.yaml': failures('a.tap.sh > cpus=2 > script'),
  'typescript/a.test.ts': typescript,
  'typescript/x.expect.yaml': failures('a.test.ts > bad', 'a.test.ts > ends badly'),
  'elsewhere/a.tap.sh': DECLARED,
  'elsewhere/x.expect.yaml': `failures:
  - { test: a.tap.sh > bad, ${LIVE}, kernel: '<6.2' }
  - { test: a.tap.sh > bad, ${LIVE}, host: local }
`,
  'infra/a.tap.sh': script('# guest: { kernel: missing }', '# point: bad'),
  'infra/x.expect.yaml': failures('a.tap.sh > *'),
  'expired/a.tap.sh': DECLARED,
  'expired/x.expect.yaml': `failures: [{ test: a.tap.sh > bad, ${WHY}, expires: 2020-01-31 }]`,
  'splat/a.tap.sh': SPLAT,
  'splat/x.expect.yaml': splats('2999-12-31'),
  'splat-expired/a.tap.sh': SPLAT,
  'splat-expired/x.expect.yaml': splats('2020-01-31'),
  'splat-gone/a.tap.sh': FIXED,
  'splat-gone/x.expect.yaml': splats('2999-12-31'),
  'skip-declared/a.tap.sh': script('# point: a', ...SKIPS),
  'skip-found/a.tap.sh': script(...SKIPS),
  'skip-header/a.tap.sh': script('# skips: ["a"]', '# point: a', ...SKIPS),
  'skip-header-found/a.tap.sh': script('# skips: ["a"]', ...SKIPS),
  'skip-entry/a.tap.sh': script('# point: a', ...SKIPS),
  'skip-entry/x.expect.yaml': 'skips: [{ test: a.tap.sh > a, reason: one CPU }]',
  'skip-mute/a.tap.sh': script('# skips: ["*"]', '# point: a', 'echo 1..1', 'echo "ok 1 - a # SKIP"'),
  'skip-mute/x.expect.yaml': failures('a.tap.sh > a'),
  'skip-all/a.tap.sh': script('# point: a', 'echo "1..0 # SKIP no device"'),
  'empty/a.tap.sh': script('true'),
  'empty-plan/a.tap.sh': script('echo 1..0'),
  'empty-plan/x.expect.yaml': failures('a.tap.sh > script'),
  'empty/x.expect.yaml': failures('a.tap.sh > script'),
  'late/a.tap.sh': script('# timeout: 1s', 'sleep 60'),
  'late/x.expect.yaml': failures('a.tap.sh > script'),
  'no-tests/a.test.ts': 'export {}',
}

describe('one run of many cases:', () => {
  let project: TemporaryProject
  let run: VitestRun

  beforeAll(async () => {
    project = new TemporaryProject(FILES, { plugin: { expectations: ['known/other.yaml'] } })
    run = await project.run()
  }, PATIENCE)

  afterAll(() => project[Symbol.dispose]())

  const of = (folder: string) => run.files[`${folder}/a.tap.sh`] ?? run.files[`${folder}/a.test.ts`] ?? {}
  const statuses = (folder: string) =>
    Object.fromEntries(Object.entries(of(folder)).map(([name, { status }]) => [name, status]))
  const failure = (folder: string, name: string) => of(folder)[name]?.failureMessages.join('\n')

  test.for(['declared', 'found', 'deep/in', 'listed'])('an expected failure passes: %s', (folder) => {
    expect(of(folder).bad).toMatchObject({ status: 'passed' })
    const source = { 'deep/in': 'deep/in/near.expect.yaml:2', listed: 'known/other.yaml:2' }[folder]
    const entry = source ?? `${folder}/x.expect.yaml:2`
    expect(run.output).toContain(`expected failure: ${entry}: a known bug, https://example.org/1`)
    expect(run.output).toContain(`${folder}/a.tap.sh > bad: ${entry}: a known bug`)
    expect(run.junit).toContain(
      `<skipped message="expected failure: a known bug (https://example.org/1; ${entry})"/>`,
    )
  })

  test('an entry of a folder above speaks of what no nearer one does', () => {
    expect(failure('deep/in', 'good')).toContain('unexpected pass: deep/far.expect.yaml:2')
  })

  test('the script as a whole, and one of its variants, can be known to fail', () => {
    expect(statuses('variant')).toMatchObject({ 'cpus=1 script': 'failed', 'cpus=2 script': 'passed' })
  })

  test('so can a test in TypeScript, with what its fixtures say when they end', () => {
    expect(new Set(Object.values(statuses('typescript')))).toEqual(new Set(['passed']))
    expect(run.junit).toMatch(/<system-out>[^<]*too late/)
  })

  test('an entry for another kernel or host excuses nothing, and is not missed', () => {
    expect(statuses('elsewhere')).toMatchObject({ bad: 'failed' })
    expect(run.output).not.toMatch(/elsewhere\/x\.expect\.yaml:\d+: a known bug.*nothing in this run/)
  })

  test('our own fault is no expected failure', () => {
    expect(statuses('infra')).toEqual({ bad: 'failed', script: 'failed' })
  })

  test('an entry that has expired and is still needed says so beside the failure', () => {
    expect(failure('expired', 'bad')).toMatch(
      /not ok 2 - bad[\s\S]*the entry that expects it expired on 2020-01-31: expired\/x\.expect\.yaml:1/,
    )
    expect(run.junit).toMatch(/<failure message="it still fails, and the entry that expects it expired/)
  })

  test('a splat that is allowed leaves the guest its pass', () => {
    expect(statuses('splat')).toEqual({ a: 'passed', script: 'passed' })
    expect(run.junit).toMatch(/name="guest.allowed" value="WARNING: [^"]*\(splat.x.expect.yaml:1\)"/)
  })

  test('a splat that was allowed once is an oops', () => {
    expect(failure('splat-expired', 'script')).toMatch(
      /oops: WARNING: .*; allowed until 2020-01-31 by splat-expired\/x\.expect\.yaml:1/,
    )
  })

  test('a splat that no longer comes leaves an entry that nothing answers to', () => {
    const line = 'splat-gone/x.expect.yaml:1: a known bug, https://example.org/1: nothing in this run'
    expect(run.output).toContain(line)
    expect(run.junit).toContain(`<failure message="${line}`)
  })

  test.for(['skip-declared', 'skip-found'])(
    'a point that skips and may not fails, with what to write: %s',
    (folder) => {
      expect(failure(folder, 'a')).toContain(
        `skipped (one CPU), and nothing declares that it may; to allow it write '# skips: ["a"]' in its header`,
      )
    },
  )

  test.for(['skip-header', 'skip-header-found', 'skip-entry'])('a declared skip is one: %s', (folder) => {
    expect(statuses(folder)).toEqual({ a: 'skipped', script: 'passed' })
  })

  test('a skip without a reason fails whatever is declared, and nothing excuses it', () => {
    expect(failure('skip-mute', 'a')).toContain('skipped without a reason')
  })

  test('a whole script that skips and may not fails, and so do its points', () => {
    const message = `skipped (no device), and nothing declares that it may; to allow it write '# skips: ["script"]'`
    expect(failure('skip-all', 'script')).toContain(message)
    expect(failure('skip-all', 'a')).toContain(message)
  })

  test('a script that prints no points fails even where it is known to fail', () => {
    expect(failure('empty', 'script')).toContain('no plan and no points')
    expect(failure('empty-plan', 'script')).toContain('a plan of 0 points without a reason')
  })

  test('a script that was cut off before its first point can be known to fail', () => {
    expect(statuses('late')).toEqual({ script: 'passed' })
  })

  test('a test file without tests fails', () => {
    expect(run.output).toMatch(/No test suite found in file \S*no-tests\/a\.test\.ts/)
  })

  test('the report is valid and the run failed', () => {
    expect(checkSchema(project)).toBe('valid')
    expect(run.status).toBe(1)
  })
})

describe.concurrent('a run', { timeout: PATIENCE }, () => {
  test('with nothing but expected failures passes; none is run again, none counts for --bail', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': DECLARED,
      'x.expect.yaml': failures('a.tap.sh > bad'),
    })
    const run = await project.run('--retry=2', '--bail=1')
    expect(run.guests.filter((line) => line.startsWith('fork'))).toHaveLength(1)
    expect(run.tests).toMatchObject({ script: { status: 'passed' } })
    expect(run.output).toContain('1 expected failure:')
    expect(run.output).not.toContain('flaky')
    expect(run.status).toBe(0)
  })

  test('fails for a test that passes though it is known to fail, also when it is run again', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': FIXED, 'x.expect.yaml': failures('a.tap.sh > bad') })
    const run = await project.run('--retry=1')
    expect(run.tests.bad?.failureMessages.join()).toContain(
      'unexpected pass: x.expect.yaml:2: a known bug, https://example.org/1; remove the entry when it is fixed',
    )
    expect(run.guests.filter((line) => line.startsWith('fork'))).toHaveLength(2)
    expect(run.output).toMatch(/1 unexpected pass:\n.*a\.tap\.sh > bad: x\.expect\.yaml:2/)
    expect(run.junit).toContain('<failure message="unexpected pass: x.expect.yaml:2')
    expect(run.status).toBe(1)
  })

  test('of everything fails for an entry that nothing answers to, a run of a part says nothing', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': FIXED,
      'b.tap.sh': FIXED,
      'x.expect.yaml': failures('a.tap.sh > gone'),
    })
    const whole = await project.run()
    expect(whole.output).toContain(
      'x.expect.yaml:2: a known bug, https://example.org/1: nothing in this run answers to the entry',
    )
    expect(whole.junit).toMatch(/<testsuite name="the run as a whole"[\s\S]*name="x.expect.yaml:2"/)
    expect(whole.status).toBe(1)
    for (const part of [['a.tap.sh'], ['-t', 'good'], ['a.tap.sh:2', 'b.tap.sh:2']]) {
      const run = await project.run(...part)
      expect([part, run.output.includes('answers to the entry'), run.status]).toEqual([part, false, 0])
    }
  })

  test('says nothing of a file that is there and that no project has among its tests', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': FIXED,
      'apart.sh': FIXED,
      'x.expect.yaml': [
        failures('apart.sh > bad'),
        failures('nowhere.sh > bad').replace('failures:\n', ''),
      ].join(''),
    })
    const { output, status } = await project.run()
    expect(output.match(/x\.expect\.yaml:(\d+).*answers to the entry/)?.[1]).toBe('3')
    expect(output.match(/answers to the entry/g)).toHaveLength(1)
    expect(status).toBe(1)
  })

  test('tells such an entry on standard error when a program reads the rest', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': FIXED, 'x.expect.yaml': failures('a.tap.sh > gone') })
    const { output, status } = await project.vitest('run', '--reporter=tap')
    expect(output).toContain('x.expect.yaml:2: a known bug')
    expect(status).toBe(1)
  })

  test('fails each file that a broken one is for, with its line, before a guest boots', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': FIXED,
      'b.test.ts': "import { test } from 'vitest'\ntest('one', () => {})",
      'x.expect.yaml': 'failures:\n  - test: a\n    reason: b\n',
    })
    const run = await project.run()
    expect(run.output).toContain("x.expect.yaml:2: an entry without 'link'; docs/expectations.md lists")
    // The script is one failing file with that line, and not a row of tests that a hook kept from running.
    expect(run.tests).toEqual({ one: expect.objectContaining({ status: 'failed' }) })
    expect(run.guests).toEqual([])
    expect(run.status).toBe(1)
  })

  test('that watches sees what is written down', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': DECLARED, 'x.expect.yaml': '# nothing yet\n' })
    const vitest = project.start(['watch', '--reporter=verbose'])
    await vitest.saw('Watching for file changes')
    project.write({ 'x.expect.yaml': failures('a.tap.sh > bad') })
    await vitest.saw('1 expected failure')
    vitest.kill('SIGTERM')
    await vitest.finished
  })

  test('that watches runs a script again when a file that its header names changes', async () => {
    const header = '# guest: { files: { /etc/word: ./word.txt } }'
    using project = new TemporaryProject({
      'a.tap.sh': script(header, 'echo 1..1', 'echo "ok 1 - a"'),
      'word.txt': 'one',
    })
    const vitest = project.start(['watch', '--reporter=verbose'])
    await vitest.saw('Waiting for file changes')
    project.write({ 'word.txt': 'two' })
    await vitest.saw('RERUN')
    vitest.kill('SIGTERM')
    await vitest.finished
  })

  test('of a point alone fails when the whole script skips itself and may not', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': FILES['skip-all/a.tap.sh'] })
    expect((await project.run('-t', 'a')).status).toBe(1)
  })

  test('of several projects fails for one that has no files', async () => {
    const of = (name: string, include: string) => ({
      name,
      include: [include],
      kernels: ['debian:6.12-cloud'],
    })
    using project = new TemporaryProject(
      { 'a.tap.sh': FIXED },
      { projects: [of('some', '*.tap.sh'), of('none', 'gone/*.tap.sh')] },
    )
    const run = await project.run()
    const line = 'none (debian:6.12-cloud) has no cells: no file matches its include (gone/*.tap.sh)'
    expect(run.output).toContain(line)
    expect(run.junit).toContain(`<failure message="${line}"`)
    expect(run.status).toBe(1)
    expect((await project.run('--project', 'some*')).status).toBe(0)
  })

  test('fails for expectations beside tests of a project that does not use the plugin', async () => {
    const ours = { name: 'ours', include: ['*.tap.sh'], kernels: ['debian:6.12-cloud'] }
    const others = { test: { name: 'others', include: ['other/*.test.ts'] } }
    using project = new TemporaryProject(
      {
        'a.tap.sh': FIXED,
        'other/a.test.ts': "import { test } from 'vitest'\ntest('one', () => {})",
        'other/x.expect.yaml': failures('a.test.ts > one'),
      },
      { projects: [ours], others: [others] },
    )
    const run = await project.run()
    expect(run.output).toContain(
      'other/x.expect.yaml: project others does not use the plugin of kvitest, so nothing is expected of its tests; add plugins: [kvitest()]',
    )
    expect(run.status).toBe(1)
  })

  test('tells retried points and scripts as flaky, and counts every guest, forked or booted', async () => {
    const twice = (bad: string, good: string) =>
      `cd "$(dirname "$0")"; echo x >>"runs-$KVITEST_SCRIPT"; if [ "$(wc -l <"runs-$KVITEST_SCRIPT")" -ge 2 ]; then ${good}; else ${bad}; fi`
    using project = new TemporaryProject({
      'point.tap.sh': script('# point: a', twice('echo "not ok 1 - a"', 'echo "ok 1 - a"'), 'echo 1..1'),
      'script.tap.sh': script(twice('status=3', 'status=0'), 'echo 1..1', 'echo "ok 1 - b"', 'exit $status'),
      'pointwise.tap.sh': script(
        '# guest: { fork: point }',
        '. /lib/kvitest/tap.sh',
        'is "one" 1 1',
        'is "two" 2 2',
        'done_testing',
      ),
      'booted.tap.sh': script('# guest: { fork: none }', 'echo 1..1', 'echo "ok 1 - b"'),
    })
    const run = await project.run('--retry=1')
    expect(run.output).toMatch(/2 flaky tests, failed and then passed:/)
    expect(run.output).toContain('point.tap.sh > a: not ok 1 - a')
    expect(run.output).toContain('script.tap.sh > script: the script exited with status 3')
    expect(run.junit.match(/<flakyFailure /g)).toHaveLength(2)
    expect(run.guests.filter((line) => line.startsWith('fork'))).toHaveLength(6)
    expect(run.output).toContain('7 guests: ')
    expect(run.output).toContain('6 forks, 1 boot')
    expect(run.status).toBe(0)
  })
})
