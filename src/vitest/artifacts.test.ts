/** The files of failing guests in real vitest runs, with a stand-in host: no guest boots here. */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { type ProjectOptions, TemporaryProject } from './testing/run-vitest.ts'

const projects: TemporaryProject[] = []

afterEach(() => {
  for (const project of projects.splice(0)) project[Symbol.dispose]()
})

/** With workers as users have them. */
function project(files: Record<string, string>, options: ProjectOptions = {}): TemporaryProject {
  projects.push(new TemporaryProject(files, { test: { isolate: true }, ...options }))
  return projects.at(-1)!
}

function shell(command: string, cwd: string): Promise<{ status: number; output: string }> {
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, NO_COLOR: '1' }
  return new Promise((resolve) => {
    execFile('/bin/sh', ['-c', `${command} --reporter=verbose 2>&1`], { cwd, env }, (error, stdout) =>
      resolve({ status: error ? Number(error.code) : 0, output: stdout }),
    )
  })
}

const awkward = `it's $HOME (a|b) [c] "d" *`
const failing = `#!/bin/sh
# guest: { cpus: [1, 2] }
. /lib/kvitest/tap.sh
pass "good"
fail "${awkward.replace(/[$"]/g, '')}"
echo to stderr >&2
done_testing
`

test('a failing guest leaves its files, named in the failure and in JUnit; the command runs it again', async () => {
  const name = awkward.replace(/[$"]/g, '')
  const files = { 'my suites/odd name.tap.sh': failing, 'fine.tap.sh': failing.replace(/^fail.*\n/m, '') }
  const vitest = project(files, { kernels: ['debian:6.1-cloud'] })
  const run = await vitest.run()
  const directory = 'test-results/guests/debian-6.1-cloud/my-suites/odd-name.tap.sh/cpus=2'
  const message = run.tests[`cpus=2 ${name}`]!.failureMessages.join('\n')
  expect(message).toContain(`artifacts: ${directory}`)
  expect(readdirSync(join(vitest.folder, directory)).sort()).toEqual([
    'agent.log',
    'console.log',
    'machine.json',
    'script.stderr',
    'script.tap',
    'vcpus.json',
    'verdict.json',
  ])
  expect(vitest.read(`${directory}/script.tap`)).toContain(`not ok 2 - ${name}`)
  expect(vitest.read(`${directory}/script.stderr`)).toBe('to stderr\n')
  expect(run.junit).toContain(`name="guest.artifacts" value="${directory}"`)
  expect(run.junit).toContain(`[[ATTACHMENT|${directory}/console.log]]`)
  // A guest that passed leaves nothing.
  expect(existsSync(join(vitest.folder, 'test-results/guests/debian-6.1-cloud/fine.tap.sh'))).toBe(false)

  const command = /^rerun: (.*)$/m.exec(message)![1]!
  const again = await shell(command, vitest.folder)
  expect(again.status).toBe(1)
  expect(again.output).toContain(`cpus=2 > ${name}`)
  expect(again.output).toMatch(/Tests +1 failed \| 5 skipped/)
  // The whole guest: all of its tests, none of the other's.
  const { rerun } = JSON.parse(vitest.read(`${directory}/verdict.json`))
  const whole = await shell(rerun, vitest.folder)
  expect(whole.output).toMatch(/Tests +[12] failed \| [12] passed \| 3 skipped/)
})

const script = (points: string) => `#!/bin/sh\n. /lib/kvitest/tap.sh\n${points}\ndone_testing\n`

test('a retry has files of its own, and the next run begins with none', async () => {
  const vitest = project({ 'a.tap.sh': script('fail "point"') })
  await vitest.run('--retry=1')
  const guests = join(vitest.folder, 'test-results/guests/a.tap.sh')
  expect(readdirSync(guests).sort()).toEqual(['guest', 'guest-retry1'])
  vitest.write({ 'a.tap.sh': script('pass "point"') })
  await vitest.vitest('run')
  expect(existsSync(guests)).toBe(false)
})

test('every guest leaves its files when it is asked for, none when that is', async () => {
  for (const [when, what] of [
    ['always', 'pass'],
    ['none', 'fail'],
  ]) {
    const vitest = project({ 'a.tap.sh': script(`${what} "point"`) }, { plugin: { artifacts: when } })
    const guest = join(vitest.folder, 'test-results/guests/a.tap.sh/guest')
    const { output } = await vitest.run()
    expect(existsSync(guest), output).toBe(when === 'always')
    expect(output).not.toContain('artifacts:')
  }
})

test('a place that cannot be written is one line, and no other result', async () => {
  const vitest = project(
    { 'a.tap.sh': script('fail "point"') },
    { plugin: { artifactsDirectory: '/proc/nowhere' } },
  )
  const run = await vitest.run()
  expect(run.output).toContain(
    'kvitest: write artifacts: /proc/nowhere/a.tap.sh/guest: no such directory (ENOENT)',
  )
  expect(run.tests).toMatchObject({ point: { status: 'failed' }, script: { status: 'passed' } })
  expect(run.junit).not.toContain('guest.artifacts')
})
