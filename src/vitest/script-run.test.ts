/** Scripts as test files, through real vitest processes; their guests are stand-ins (testing/process-host.ts). */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { TemporaryProject } from './testing/run-vitest.ts'

const SCHEMA = resolve(import.meta.dirname, '../report/junit.xsd')

function script(...lines: string[]): string {
  return `${['#!/bin/sh', ...lines].join('\n')}\n`
}

/** Two declared points, the second of which fails with a diff. */
const TWO = script(
  '# guest: { cpus: 2 }',
  '# point: good',
  '# point: bad',
  'echo 1..2',
  'echo "ok 1 - good"',
  'echo "not ok 2 - bad"',
  'echo "  ---"',
  'echo "  expected: four"',
  'echo "  actual: five"',
  'echo "  ..."',
  'exit 1',
)
const GOOD = script('# point: only', 'echo "ok 1 - only"', 'echo 1..1')

function checkSchema(project: TemporaryProject): string {
  const file = join(project.folder, 'test-results/junit.xml')
  const { status, stderr } = spawnSync('xmllint', ['--noout', '--schema', SCHEMA, file], { encoding: 'utf8' })
  return status === 0 ? 'valid' : stderr
}

describe.concurrent('a run', { timeout: 60_000 }, () => {
  test('shows each point as a test, a failing one with its diff at its line', async () => {
    using project = new TemporaryProject({ 'two.tap.sh': TWO })
    const run = await project.run()
    expect(run.tests).toMatchObject({
      good: { status: 'passed', line: 3 },
      bad: { status: 'failed', line: 4 },
      script: { status: 'passed', line: 2 },
    })
    expect(run.output).toContain('Expected: "four"\nReceived: "five"')
    expect(run.output).toContain('two.tap.sh:4:1')
    expect(run.status).toBe(1)
  })

  test('settles declared and appended points while the script goes on', async () => {
    const wait = (name: string) =>
      `for i in $(seq 100); do [ -e ${name} ] && break; sleep 0.1; done; [ -e ${name} ]`
    using project = new TemporaryProject({
      'live.tap.sh': script(
        '# point: declared',
        'cd "$(dirname "$0")"',
        'echo "ok 1 - declared"',
        `${wait('go1')} && echo "ok 2 - appended" || echo "not ok 2 - appended"`,
        `${wait('go2')} && echo "ok 3 - end" || echo "not ok 3 - end"`,
        'echo 1..3',
      ),
    })
    const vitest = project.start(['run', '--reporter=verbose'])
    await vitest.saw('✓ live.tap.sh:2 > declared')
    writeFileSync(join(project.folder, 'go1'), '')
    await vitest.saw('> appended')
    writeFileSync(join(project.folder, 'go2'), '')
    const { output, status } = await vitest.finished
    expect(output).toContain('4 passed (4)')
    expect(status).toBe(0)
  })

  test('gives every variant a guest of its own, all at once', async () => {
    using project = new TemporaryProject({
      'v.tap.sh': script(
        '# guest: { cpus: [1, 2, 4] }',
        '# point: mine',
        'echo "ok 1 - mine"',
        'cd "$(dirname "$0")"; touch "up$KVITEST_CPUS"',
        'for i in $(seq 100); do [ -e up1 ] && [ -e up2 ] && [ -e up4 ] && break; sleep 0.1; done',
        'echo "ok 2 - cpus $KVITEST_CPUS $KVITEST_VARIANT after $([ "$i" -lt 100 ] && echo meeting)"',
        'echo 1..2',
      ),
    })
    const run = await project.run()
    expect(Object.keys(run.tests).filter((name) => name.includes('after meeting'))).toEqual([
      'cpus=1 cpus 1 cpus=1 after meeting',
      'cpus=2 cpus 2 cpus=2 after meeting',
      'cpus=4 cpus 4 cpus=4 after meeting',
    ])
    expect(run.status).toBe(0)
  })

  test('makes one project a kernel', async () => {
    using project = new TemporaryProject(
      { 'a.tap.sh': GOOD },
      { kernels: ['debian:6.12-cloud', 'debian:6.1-cloud'] },
    )
    const run = await project.run()
    expect(run.guests.filter((line) => line.startsWith('fork')).sort()).toEqual([
      'fork a.tap.sh debian:6.1-cloud',
      'fork a.tap.sh debian:6.12-cloud',
    ])
    expect(run.junit).toContain('classname="debian:6_1-cloud.a"')
    expect(run.status).toBe(0)
  })
})

describe.concurrent('fork:', { timeout: 60_000 }, () => {
  const begun = (guests: string[]) => guests.filter((line) => !line.startsWith('stop')).sort()
  const THREE = script(
    '# guest: { fork: point }',
    '. /lib/kvitest/tap.sh',
    'echo "ran for $KVITEST_POINT"',
    'is "one" 1 1',
    'is "two" 2 3',
    "point 'three' true",
    'done_testing',
  )

  test('none boots the guest', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': script('# guest: { fork: none }', '# point: x', 'echo "ok 1 - x"', 'echo 1..1'),
    })
    const run = await project.run()
    expect(begun(run.guests)).toEqual(['boot a.tap.sh undefined'])
    expect(run.status).toBe(0)
  })

  test('point runs each point alone, in a fork of its own', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': THREE })
    const run = await project.run()
    expect(begun(run.guests)).toEqual(
      ['one', 'three', 'two'].map((name) => `fork a.tap.sh ${name} undefined`),
    )
    expect(run.tests).toMatchObject({
      one: { status: 'passed', line: 5 },
      two: { status: 'failed', line: 6 },
      three: { status: 'passed' },
      script: { status: 'passed' },
    })
    expect(Object.keys(run.tests)).toHaveLength(4)
    expect(run.status).toBe(1)
  })

  test('point runs only the points that were asked for', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': THREE })
    const run = await project.run('-t', 'three')
    expect(begun(run.guests)).toEqual(['fork a.tap.sh three undefined'])
    expect(run.status).toBe(0)
  })

  test('point runs all when only the script itself was asked for, and a retry in a new fork', async () => {
    using project = new TemporaryProject({ 'a.tap.sh': THREE })
    const whole = await project.run('-t', 'script')
    expect(begun(whole.guests)).toHaveLength(3)
    const again = await project.run('-t', 'two', '--retry=1')
    expect(begun(again.guests)).toEqual(Array(2).fill('fork a.tap.sh two undefined'))
  })

  test('point tells at the script what no point can, by the name of its run', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': THREE.replace('done_testing', '[ "$KVITEST_POINT" != one ] || exit 99\ndone_testing'),
    })
    const run = await project.run()
    expect(run.tests).toMatchObject({ one: { status: 'passed' }, script: { status: 'failed' } })
    expect(run.output).toContain('alone, "one":')
    expect(run.output).toContain('panic: Kernel panic - not syncing: stand-in')
  })

  test.each([
    [
      'uses no library',
      ['is "a" 1 1'],
      /a\.tap\.sh:2: fork: point: the script does not use .lib.kvitest.tap\.sh/,
    ],
    ['declares nothing', ['. /lib/kvitest/tap.sh', 'true'], /:2: fork: point: the script declares no points/],
    [
      'makes names',
      ['. /lib/kvitest/tap.sh', 'is "a $i" 1 1'],
      /:4: fork: point: a point whose name is made/,
    ],
    [
      'prints points',
      ['. /lib/kvitest/tap.sh', '# point: b'],
      /:4: fork: point: a point that another program prints/,
    ],
  ])('point is refused for a script that %s', async (_, lines, message) => {
    using project = new TemporaryProject({ 'a.tap.sh': script('# guest: { fork: point }', ...lines) })
    const run = await project.run()
    expect(run.output).toMatch(message)
    expect(run.status).toBe(1)
    expect(run.guests).toEqual([])
  })
})

describe.concurrent('selecting', { timeout: 60_000 }, () => {
  const files = { 'two.tap.sh': TWO, 'other.tap.sh': GOOD }

  test('by name boots only the files with such a point', async () => {
    using project = new TemporaryProject(files)
    const run = await project.run('-t', 'good')
    expect(run.tests).toMatchObject({ good: { status: 'passed' }, bad: { status: 'skipped' } })
    expect(run.guests.filter((line) => line.startsWith('fork'))).toEqual(['fork two.tap.sh undefined'])
    expect(run.status).toBe(0)
  })

  test('by line runs the point of that line', async () => {
    using project = new TemporaryProject(files)
    const run = await project.run('two.tap.sh:4')
    expect(run.tests).toMatchObject({ good: { status: 'skipped' }, bad: { status: 'failed' } })
    expect(run.status).toBe(1)
  })

  test('nothing, by list, names the points and boots no guest', async () => {
    using project = new TemporaryProject(files)
    const { output } = await project.vitest('list')
    expect(output.split('\n').filter(Boolean).sort()).toEqual([
      'other.tap.sh > only',
      'other.tap.sh > script',
      'two.tap.sh > bad',
      'two.tap.sh > good',
      'two.tap.sh > script',
    ])
    expect(() => project.read('guests.log')).toThrow('ENOENT')
  })

  test('by shard runs each file in one of the shards', async () => {
    using project = new TemporaryProject(files)
    const first = await project.run('--shard=1/2')
    const second = await project.run('--shard=2/2')
    expect([...Object.keys(first.tests), ...Object.keys(second.tests)].sort()).toEqual([
      'bad',
      'good',
      'only',
      'script',
      'script',
    ])
  })

  test('by "# only" leaves other files of its run alone and by "# skip" tells why', async () => {
    using project = new TemporaryProject({
      'a.tap.sh': script('# skip: no such device here', '# point: x', 'exit 9'),
      'b.tap.sh': script('# only', '# point: y', 'echo "ok 1 - y"', 'echo 1..1'),
    })
    const run = await project.run('--allowOnly')
    expect(run.tests).toMatchObject({ x: { status: 'skipped' }, y: { status: 'passed' } })
    expect(run.guests.filter((line) => line.startsWith('fork'))).toEqual(['fork b.tap.sh undefined'])
    expect(run.junit).toContain('<skipped message="no such device here"/>')
    expect(checkSchema(project)).toBe('valid')
  })
})

describe.concurrent('going on after a failure', { timeout: 60_000 }, () => {
  test('--retry forks a guest for the retried point, and the report calls it flaky', async () => {
    using project = new TemporaryProject({
      'flaky.tap.sh': script(
        '# point: steady',
        '# point: flaky',
        'cd "$(dirname "$0")"; echo x >>runs',
        'echo 1..2',
        'echo "ok 1 - steady"',
        '[ "$(wc -l <runs)" -ge 2 ] && echo "ok 2 - flaky" || echo "not ok 2 - flaky"',
      ),
    })
    const run = await project.run('--retry=2')
    expect(run.tests).toMatchObject({ steady: { status: 'passed' }, flaky: { status: 'passed' } })
    expect(run.guests.filter((line) => line.startsWith('fork'))).toHaveLength(2)
    expect(run.junit).toContain('<flakyFailure message="not ok 2 - flaky" type="ScriptFailure">')
    expect(run.output).toMatch(
      /1 flaky test, failed and then passed:\n.*flaky\.tap\.sh > flaky: not ok 2 - flaky/,
    )
    expect(checkSchema(project)).toBe('valid')
    expect(run.status).toBe(0)
  })

  test('a reporter for programs has standard output to itself', async () => {
    using project = new TemporaryProject({ 'one.tap.sh': script('echo 1..1', 'echo "ok 1 - one"') })
    expect((await project.vitest('run', '--reporter=tap')).output).not.toContain('1 guest')
    expect((await project.vitest('run')).output).toContain('kvitest  1 guest: 1 pass')
  })

  test('--bail ends the run and the guest of the script', async () => {
    using project = new TemporaryProject({
      'bail.tap.sh': script(
        '# point: bad',
        '# point: never',
        'echo "not ok 1 - bad"',
        'echo "# text"',
        'sleep 60',
        'echo "ok 2 - never"',
      ),
    })
    const run = await project.run('--bail=1')
    expect(run.tests).toMatchObject({ bad: { status: 'failed' }, never: { status: 'pending' } })
    expect(run.junit.match(/<skipped message="not run: the run was interrupted"\/>/g)).toHaveLength(2)
    expect(run.guests).toContain('stop bail.tap.sh')
    expect(run.status).toBe(1)
  })

  test('watch runs a script again when it changes', async () => {
    using project = new TemporaryProject({ 'w.tap.sh': GOOD })
    const vitest = project.start(['watch', '--reporter=verbose'])
    await vitest.saw('Waiting for file changes')
    project.write({ 'w.tap.sh': GOOD.replaceAll('only', 'changed') })
    await vitest.saw('✓ w.tap.sh:2 > changed')
    vitest.kill('SIGTERM')
    const { output } = await vitest.finished
    expect(output).toContain('✓ w.tap.sh:2 > only')
  })
})

/** File name -> the script's lines and the first line of the failure of its `script` test. */
const BROKEN: Record<string, [string[], string | RegExp]> = {
  'exits non-zero though all points are ok': [
    ['echo 1..1', 'echo "ok 1 - a"', 'exit 3'],
    'the script exited with status 3',
  ],
  'has no plan': [['echo "ok 1 - a"'], "no plan: the script ended without '1..N' (done_testing)"],
  'has a wrong plan': [['echo "ok 1 - a"', 'echo 1..5'], 'planned 5 points, saw 1'],
  'numbers a point twice': [
    ['echo 1..2', 'echo "ok 1 - a"', 'echo "ok 1 - b"'],
    'point 1 came more than once',
  ],
  'numbers out of order': [
    ['echo 1..2', 'echo "ok 2 - a"', 'echo "ok 1 - b"'],
    'point 2 came where 1 was due',
  ],
  'names two points alike': [['echo 1..2', 'echo "ok 1 - a"', 'echo "ok 2 - a"'], 'two points named "a"'],
  'bails out': [['echo 1..2', 'echo "ok 1 - a"', 'echo "Bail out! no device"'], 'bail out: no device'],
  'prints garbage': [['echo 1..1', "printf '\\000\\377\\n'", 'echo "ok 1 - a"'], /binary garbage/],
  'prints a line of 10 MB': [
    ['echo 1..1', "head -c 10000000 /dev/zero | tr '\\0' x; echo", 'echo "ok 1 - a"'],
    /^line 2: 10000000 bytes in one line/,
  ],
  'plans nothing': [['echo 1..0'], /^a plan of 0 points without a reason/],
  'prints nothing': [['true'], 'no plan and no points'],
  'is over its time': [['# timeout: 1s', 'echo 1..1', 'echo "ok 1 - a"', 'sleep 60'], /over its time/],
  'panics its guest': [
    ['echo 1..1', 'echo "ok 1 - a"', 'exit 99'],
    'panic: Kernel panic - not syncing: stand-in',
  ],
  'cannot get a guest': [
    ['# guest: { kernel: missing }'],
    'infra: kernel missing: no such kernel; name one that exists',
  ],
}

test('broken scripts each fail their "script" test with one clear line', { timeout: 120_000 }, async () => {
  const files = Object.entries(BROKEN).map(([name, [lines]]) => [`${name}.tap.sh`, script(...lines)])
  using project = new TemporaryProject(Object.fromEntries(files))
  const run = await project.run()
  const failures = Object.keys(BROKEN).map((name) => {
    const message = run.files[`${name}.tap.sh`]?.script?.failureMessages[0] ?? 'no failure'
    return [name, message.split('\n')[0]!.replace(/^(ScriptFailure|NothingProven): /, '')]
  })
  const expected = Object.entries(BROKEN).map(([name, [, text]]) => [
    name,
    typeof text === 'string' ? text : expect.stringMatching(text),
  ])
  expect(failures).toEqual(expected)
  expect(checkSchema(project)).toBe('valid')
  expect(run.status).toBe(1)
})

describe.concurrent('a script that', { timeout: 60_000 }, () => {
  test('ends before a point fails that point', async () => {
    using project = new TemporaryProject({
      'x.tap.sh': script('# point: a', '# point: b', 'echo "ok 1 - a"', 'echo 1..1'),
    })
    const run = await project.run()
    expect(run.tests).toMatchObject({ a: { status: 'passed' }, b: { status: 'failed' } })
    expect(run.tests.b?.failureMessages[0]).toContain(
      'the script ended before this point: pass: the script passed',
    )
    expect(run.status).toBe(1)
  })

  test('has a bad header is one failing file with one clear line', async () => {
    using project = new TemporaryProject({ 'h.tap.sh': script('# guest: { cpus: 99 }', 'echo 1..0') })
    const run = await project.run()
    expect(run.output).toContain('h.tap.sh:2: cpus: want 1 to 8, got 99')
    expect(run.junit).toContain('errors="1"')
    expect(checkSchema(project)).toBe('valid')
    expect(run.status).toBe(1)
  })

  test('skips everything skips its tests with the reason', async () => {
    using project = new TemporaryProject({
      's.tap.sh': script('# skips: [script]', '# point: a', 'echo "1..0 # SKIP no device"'),
    })
    const run = await project.run()
    expect(run.tests).toMatchObject({ a: { status: 'skipped' }, script: { status: 'skipped' } })
    expect(run.junit.match(/<skipped message="no device"\/>/g)).toHaveLength(2)
    expect(run.status).toBe(0)
  })

  test('kills its worker leaves errors in the report, never a pass', async () => {
    using project = new TemporaryProject({
      'k.tap.sh': script(
        '# point: before',
        '# point: during',
        'echo "ok 1 - before"',
        'echo "# text"',
        'sleep 1',
        'kill -9 "$PPID"',
      ),
    })
    const run = await project.run()
    expect(run.junit).toMatch(/name="during"[^>]*>\s*<error message="no result: the worker/)
    expect(run.junit).toMatch(/name="script"[^>]*>\s*<error message="no result: the worker/)
    expect(run.junit).toContain('<testsuite name="unhandled errors"')
    expect(checkSchema(project)).toBe('valid')
    expect(run.status).toBe(1)
  })
})
