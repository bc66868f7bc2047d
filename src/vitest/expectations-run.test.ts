/** Expectations and vacuity, through real vitest processes; their guests are stand-ins (testing/process-host.ts). */
import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { TemporaryProject, type VitestRun } from './testing/run-vitest.ts'

const SCHEMA = resolve(import.meta.dirname, '../report/junit.xsd')
const WHY = 'reason: a known bug, link: "https://example.org/1"'
const LIVE = `${WHY}, expires: 2999-12-31`

function script(...lines: string[]): string {
  return `${['#!/bin/sh', ...lines].join('\n')}\n`
}

/** One point fails: declared, or found at run time. */
const DECLARED = script(
  '# point: good',
  '# point: bad',
  'echo 1..2',
  'echo "ok 1 - good"',
  'echo "not ok 2 - bad"',
  'exit 1',
)
const FOUND = DECLARED.replaceAll(/# point.*\n/g, '')
const FIXED = DECLARED.replace('not ok', 'ok').replace('exit 1', 'exit 0')

function failures(...tests: string[]): string {
  return `failures:\n${tests.map((name) => `  - { test: ${JSON.stringify(name)}, ${LIVE} }`).join('\n')}\n`
}

function failureOf(run: VitestRun, name: string): string {
  return run.tests[name]?.failureMessages.join('\n') ?? 'no such test'
}

function checkSchema(project: TemporaryProject): string {
  const file = join(project.folder, 'test-results/junit.xml')
  const { status, stderr } = spawnSync('xmllint', ['--noout', '--schema', SCHEMA, file], { encoding: 'utf8' })
  return status === 0 ? 'valid' : stderr
}

describe.concurrent('an expected failure', { timeout: 60_000 }, () => {
  test.for([
    ['declared', DECLARED],
    ['found at run time', FOUND],
  ] as const)('of a point that is %s passes, and is told everywhere as what it is', async ([, text]) => {
    using project = new TemporaryProject({ 'a.tap.sh': text, 'x.expect.yaml': failures('a.tap.sh > bad') })
    const run = await project.run()
    expect(run.tests).toMatchObject({ good: { status: 'passed' }, bad: { status: 'passed' } })
    expect(run.output).toContain('expected failure: x.expect.yaml:2: a known bug, https://example.org/1')
    expect(run.output).toMatch(/1 expected failure:\n.*a\.tap\.sh > bad: x\.expect\.yaml:2: a known bug/)
    expect(run.junit).toMatch(
      /name="bad"[^>]*>\s*<skipped message="expected failure: a known bug \(https:..example.org.1; x.expect.yaml:2\)"/,
    )
    expect(run.junit).toMatch(/<system-out>not ok 2 - bad/)
    expect(checkSchema(project)).toBe('valid')
    expect(run.status).toBe(0)
  })

  test('is not run again by --retry, and does not end a run by --bail', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': DECLARED,
      'x.expect.yaml': failures('a.tap.sh > bad'),
    })
    const run = await project.run('--retry=2', '--bail=1')
    expect(run.guests.filter((line) => line.startsWith('fork'))).toHaveLength(1)
    expect(run.tests).toMatchObject({ script: { status: 'passed' } })
    expect(run.output).not.toContain('flaky')
    expect(run.status).toBe(0)
  })

  test('is looked for in the folders above, nearest first, and in the files of the option', async () => {
    using project = new TemporaryProject(
      {
        'deep/in/a.tap.sh': DECLARED,
        'deep/in/near.expect.yaml': failures('a.tap.sh > bad'),
        'far.expect.yaml': failures('deep/in/a.tap.sh > *d'),
        'b/b.tap.sh': DECLARED,
        'known/other.yaml': failures('b/*.tap.sh > bad'),
      },
      { plugin: { expectations: ['known/other.yaml'] } },
    )
    const run = await project.run()
    expect(run.output).toContain('deep/in/a.tap.sh > bad: deep/in/near.expect.yaml:2')
    expect(run.output).toContain('b/b.tap.sh > bad: known/other.yaml:2')
    expect(failureOf(run, 'good')).toContain('unexpected pass: far.expect.yaml:2')
  })

  test('of the script as a whole, and of a variant', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': script('# guest: { cpus: [1, 2] }', 'echo 1..1', 'echo "ok 1 - a"', 'exit 3'),
      'x.expect.yaml': failures('a.tap.sh > cpus=2 > script'),
    })
    const run = await project.run()
    expect(run.tests).toMatchObject({
      'cpus=1 script': { status: 'failed' },
      'cpus=2 script': { status: 'passed' },
    })
  })

  test('of a test in TypeScript, with what its fixtures say when they end', async () => {
    using project = new TemporaryProject({
      'a.test.ts': `import { expect, test } from 'vitest'
        const late = test.extend('late', async ({}, { onCleanup }) => {
          onCleanup(() => { throw new Error('too late') })
          return 1
        })
        test('bad', () => expect(1).toBe(2))
        late('ends badly', ({ late }) => expect(late).toBe(1))
        test.fails('the author says so', () => expect(1).toBe(2))`,
      'x.expect.yaml': failures('a.test.ts > bad', 'a.test.ts > ends badly'),
    })
    const run = await project.run()
    expect(run.output).toContain('2 expected failures:')
    expect(run.junit).toContain('too late')
    expect(run.status).toBe(0)
  })

  test('is none of kernels and hosts that the entry does not speak of', async () => {
    const entry = (more: string) => `  - { test: a.tap.sh > bad, ${LIVE}, ${more} }\n`
    using project = new TemporaryProject({
      'a.tap.sh': DECLARED,
      'x.expect.yaml': `failures:\n${entry("kernel: '<6.2'")}${entry('host: local')}`,
    })
    const run = await project.run()
    expect(run.tests).toMatchObject({ bad: { status: 'failed' } })
    expect(run.output).not.toContain('answers to the entry')
  })

  test('is not our own fault', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': script('# guest: { kernel: missing }', '# point: bad'),
      'x.expect.yaml': failures('a.tap.sh > *'),
    })
    const run = await project.run()
    expect(run.tests).toMatchObject({ bad: { status: 'failed' }, script: { status: 'failed' } })
  })
})

describe.concurrent('an entry that', { timeout: 60_000 }, () => {
  test('is no longer true fails the test that passes, also when it is run again', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': FIXED, 'x.expect.yaml': failures('a.tap.sh > bad') })
    const run = await project.run('--retry=1')
    expect(failureOf(run, 'bad')).toContain(
      'unexpected pass: x.expect.yaml:2: a known bug, https://example.org/1; remove the entry when it is fixed',
    )
    expect(run.guests.filter((line) => line.startsWith('fork'))).toHaveLength(2)
    expect(run.output).toMatch(/1 unexpected pass:\n.*a\.tap\.sh > bad: x\.expect\.yaml:2/)
    expect(run.junit).toContain('<failure message="unexpected pass: x.expect.yaml:2')
    expect(run.status).toBe(1)
  })

  test('has expired and is still needed says so beside the failure', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': DECLARED,
      'x.expect.yaml': `failures: [{ test: a.tap.sh > bad, ${WHY}, expires: 2020-01-31 }]`,
    })
    const run = await project.run()
    expect(failureOf(run, 'bad')).toMatch(
      /not ok 2 - bad[\s\S]*the entry that expects it expired on 2020-01-31/,
    )
    expect(run.junit.match(/<failure /g)).toHaveLength(2)
    expect(run.status).toBe(1)
  })

  test('nothing answers to fails a run of everything, and is not spoken of in a part of it', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': FIXED,
      'b.tap.sh': FIXED,
      'x.expect.yaml': failures('a.tap.sh > gone'),
    })
    const whole = await project.run()
    const line =
      'x.expect.yaml:2: a known bug, https://example.org/1: nothing in this run answers to the entry'
    expect(whole.output).toContain(line)
    expect(whole.junit).toMatch(
      /<testsuite name="the run as a whole"[\s\S]*name="x.expect.yaml:2"[\s\S]*<failure message/,
    )
    expect(checkSchema(project)).toBe('valid')
    expect(whole.status).toBe(1)
    for (const part of [['a.tap.sh'], ['-t', 'good'], ['a.tap.sh:2', 'b.tap.sh:2'], ['--shard=1/2']]) {
      const run = await project.run(...part)
      expect([part, run.output.includes('answers to the entry'), run.status]).toEqual([part, false, 0])
    }
  })

  test('nothing answers to is told on standard error when a program reads the rest', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': FIXED, 'x.expect.yaml': failures('a.tap.sh > gone') })
    const { output, status } = await project.vitest('run', '--reporter=tap')
    expect(output).toContain('x.expect.yaml:2: a known bug')
    expect(status).toBe(1)
  })

  test('is broken fails each file that it is for, with its line, before a guest boots', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': FIXED,
      'b.test.ts': "import { test } from 'vitest'\ntest('one', () => {})",
      'x.expect.yaml': 'failures:\n  - test: a\n    reason: b\n',
    })
    const run = await project.run()
    expect(run.output).toContain("x.expect.yaml:2: an entry without 'link'; docs/expectations.md lists")
    expect(run.tests).toMatchObject({ one: { status: 'failed' } })
    expect(run.guests).toEqual([])
    expect(run.status).toBe(1)
  })
})

describe.concurrent('a splat', { timeout: 60_000 }, () => {
  const text = script('echo 1..1', 'echo "ok 1 - a"', 'exit 98')
  const splats = (expires: string) =>
    `splats: [{ pattern: 'at drivers/stand-in', ${WHY}, expires: ${expires} }]`

  test('that is allowed leaves the guest its pass', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': text, 'x.expect.yaml': splats('2999-12-31') })
    const run = await project.run()
    expect(run.output).toContain('1 guest: 1 pass')
    expect(run.junit).toMatch(/name="guest.allowed" value="WARNING: [^"]*\(x.expect.yaml:1\)"/)
    expect(run.status).toBe(0)
  })

  test('that was allowed once is an oops', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': text, 'x.expect.yaml': splats('2020-01-31') })
    const run = await project.run()
    expect(failureOf(run, 'script')).toMatch(/oops: WARNING: .*; allowed until 2020-01-31 by x.expect.yaml:1/)
    expect(run.status).toBe(1)
  })

  test('that no longer comes leaves an entry that nothing answers to', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': FIXED, 'x.expect.yaml': splats('2999-12-31') })
    const run = await project.run()
    expect(run.output).toContain('x.expect.yaml:1: a known bug, https://example.org/1: nothing in this run')
    expect(run.status).toBe(1)
  })
})

describe.concurrent('nothing is tested unseen:', { timeout: 60_000 }, () => {
  const points = (...lines: string[]) => script(...lines, 'echo 1..1', 'echo "ok 1 - a # SKIP one CPU"')

  test.for([
    ['declared', ['# point: a'], 'a'],
    ['found at run time', [], 'a'],
  ] as const)(
    'a skip of a point that is %s and may not fails it, with what to write',
    async ([, lines, name]) => {
      using project = new TemporaryProject({ 'a.tap.sh': points(...lines) })
      const run = await project.run()
      expect(failureOf(run, name)).toContain(
        `skipped (one CPU), and nothing declares that it may; to allow it write '# skips: ["a"]' in its header`,
      )
      expect(run.status).toBe(1)
    },
  )

  test.for([
    ['the header', { 'a.tap.sh': points('# skips: ["a"]', '# point: a') }],
    ['the header, found at run time', { 'a.tap.sh': points('# skips: ["a"]') }],
    [
      'an entry',
      {
        'a.tap.sh': points('# point: a'),
        'x.expect.yaml': 'skips: [{ test: a.tap.sh > a, reason: one CPU }]',
      },
    ],
  ] as const)('a skip that %s declares is a skip with its reason', async ([, files]) => {
    using project = new TemporaryProject(files)
    const run = await project.run()
    expect(run.tests).toMatchObject({ a: { status: 'skipped' } })
    expect(run.junit).toContain('<skipped message="one CPU"/>')
    expect(run.status).toBe(0)
  })

  test('a skip without a reason fails whatever is declared, and nothing excuses it', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': script('# skips: ["*"]', '# point: a', 'echo 1..1', 'echo "ok 1 - a # SKIP"'),
      'x.expect.yaml': failures('a.tap.sh > a'),
    })
    const run = await project.run()
    expect(failureOf(run, 'a')).toContain('skipped without a reason')
    expect(run.status).toBe(1)
  })

  test('a whole script that skips itself and may not fails, whichever test was asked for', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': script('# point: a', 'echo "1..0 # SKIP no device"') })
    const run = await project.run()
    const message = `skipped (no device), and nothing declares that it may; to allow it write '# skips: ["script"]'`
    expect(failureOf(run, 'script')).toContain(message)
    expect(failureOf(run, 'a')).toContain(message)
    expect((await project.run('-t', 'a')).status).toBe(1)
  })

  test('a script that prints no points fails even where it is known to fail', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': script('true'),
      'x.expect.yaml': failures('a.tap.sh > script'),
    })
    const run = await project.run()
    expect(failureOf(run, 'script')).toContain('no plan and no points')
    expect(run.status).toBe(1)
  })

  test('a project that has no files fails a run in which another has some', async () => {
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
    const other = await project.run('--project', 'some*')
    expect(other.status).toBe(0)
  })

  test('a test file without tests fails', async () => {
    using project = new TemporaryProject({ 'a.test.ts': 'export {}', 'b.tap.sh': FIXED })
    const run = await project.run()
    expect(run.output).toContain('No test suite found in file')
    expect(run.status).toBe(1)
  })
})

describe.concurrent('retries', { timeout: 60_000 }, () => {
  const twice = (name: string, bad: string, good: string) =>
    script(
      `cd "$(dirname "$0")"; echo x >>runs-${name}`,
      `if [ "$(wc -l <runs-${name})" -ge 2 ]; then ${good}; else ${bad}; fi`,
    )

  test('of points and of the script are flaky, and their guests count', async () => {
    using project = new TemporaryProject({
      'point.tap.sh': `${twice('p', 'echo "not ok 1 - a"', 'echo "ok 1 - a"').replace('\n', '\n# point: a\n')}echo 1..1\n`,
      'script.tap.sh': `${twice('s', 'status=3', 'status=0')}echo 1..1\necho "ok 1 - b"\nexit $status\n`,
    })
    const run = await project.run('--retry=1')
    expect(run.output).toMatch(/2 flaky tests, failed and then passed:/)
    expect(run.output).toContain('point.tap.sh > a: not ok 1 - a')
    expect(run.output).toContain('script.tap.sh > script: the script exited with status 3')
    expect(run.junit.match(/<flakyFailure /g)).toHaveLength(2)
    expect(run.guests.filter((line) => line.startsWith('fork'))).toHaveLength(4)
    expect(run.output).toContain('4 guests: ')
    expect(run.output).toContain('4 forks, 0 boots')
    expect(run.status).toBe(0)
  })

  test('of points with a fork each: every guest counts', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': script(
        '# guest: { fork: point }',
        '. /lib/kvitest/tap.sh',
        'is "one" 1 1',
        'is "two" 2 2',
        'done_testing',
      ),
      'b.tap.sh': script('# guest: { fork: none }', 'echo 1..1', 'echo "ok 1 - b"'),
    })
    const run = await project.run()
    expect(run.output).toContain('3 guests: 3 pass')
    expect(run.output).toContain('2 forks, 1 boot')
  })
})
