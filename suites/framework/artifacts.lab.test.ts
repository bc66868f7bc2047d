/** What a real guest leaves behind when it fails, and whether it leads back to the failure. */

import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
let folder: string

beforeAll(() => {
  // Below the root, where `kvitest` and vitest are found by their names.
  folder = mkdtempSync(join(root, 'build/artifacts-'))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** A vitest project of its own, which uses the labs of this run. */
function project(name: string, files: Record<string, string>): string {
  const place = join(folder, name)
  mkdirSync(place)
  const config = `import { kvitestProjects } from ${JSON.stringify(join(root, 'src/vitest/index.ts'))}
export default { test: { projects: kvitestProjects({ name: 'mine', include: ['*.tap.sh', '*.test.ts'] }) } }\n`
  writeFileSync(join(place, 'vitest.config.ts'), config)
  for (const [file, text] of Object.entries(files)) writeFileSync(join(place, file), text)
  return place
}

function shell(command: string, cwd: string, env: Record<string, string> = {}) {
  const { NODE_OPTIONS: _, VITEST: __, VITEST_POOL_ID: ___, ...mine } = process.env
  return new Promise<{ status: number; output: string }>((settle) => {
    const options = {
      cwd,
      env: { ...mine, NO_COLOR: '1', KVITEST_RUN_PLACE: '', ...env },
      maxBuffer: 2 ** 26,
    }
    execFile('/bin/sh', ['-c', `${command} 2>&1`], options, (error, output) =>
      settle({ status: error ? Number(error.code) : 0, output }),
    )
  })
}

const failing = `#!/bin/sh
. /lib/kvitest/tap.sh
pass "before"
is "it's (not) [equal]" "$(uname -s)" "Plan 9"
dmesg | grep -q 'Linux version' || bail_out 'no log'
echo 'what went wrong' >&2
done_testing
`

test('the printed command, pasted into a shell, sees the same failure; the files tell the rest', async () => {
  const place = project('script', { 'odd.tap.sh': failing })
  const first = await shell("npx vitest run --project 'mine (debian:6.1-cloud)'", place)
  const directory = /^artifacts: (\S+)$/m.exec(first.output)?.[1]
  expect(directory, first.output).toBe('test-results/guests/mine-debian-6.1-cloud/odd.tap.sh/guest')
  const read = (name: string) => readFileSync(join(place, directory!, name), 'utf8')
  expect(read('script.tap')).toContain("not ok 2 - it's (not) [equal]")
  expect(read('script.stderr')).toBe('what went wrong\n')
  // The console of an emulated host shows warnings only; the kernel's own log has it all.
  expect(read('dmesg.log')).toContain('Linux version 6.1')
  const machine = JSON.parse(read('machine.json'))
  expect(machine.commandLine).toMatch(/^console=ttyS0 /)
  expect(machine.hashes.kernel).toMatch(/^[0-9a-f]{64}$/)
  const verdict = JSON.parse(read('verdict.json'))
  expect(verdict).toMatchObject({ verdict: 'fail' })

  const rerun = /^rerun: (.*)$/m.exec(first.output)![1]!
  expect(rerun).toContain(`KVITEST_HOST=${machine.host.name} npx vitest run odd.tap.sh --project`)
  const again = await shell(rerun, place)
  expect(again.status).toBe(1)
  expect(again.output).toMatch(/FAIL .*it's \(not\) \[equal\]/)
  expect(again.output).toContain('Received: "Linux"')
  expect(again.output).toMatch(/Tests +1 failed \| 2 skipped/)
})

test('a test with the guest fixture leaves them too', async () => {
  const text = `import { expect, test } from 'kvitest/test'
test('is "wrong"', async ({ guest }) => {
  await guest.run('#!/bin/sh\\necho 1..1\\necho ok 1\\n')
  expect(1).toBe(2)
})
test('is right', async ({ guest }) => expect(await guest.exec(['true'])).toExitWith(0))
`
  const place = project('fixture', { 'fixture.test.ts': text })
  const command = "npx vitest run --project 'mine (debian:6.12-cloud)'"
  const { output } = await shell(command, place, { KVITEST_CORE: '1' })
  const directory = 'test-results/guests/mine-debian-6.12-cloud/fixture.test.ts/is-wrong'
  expect(output).toContain(`artifacts: ${directory}`)
  expect(readFileSync(join(place, directory, 'script.tap'), 'utf8')).toBe('1..1\nok 1\n')
  expect(existsSync(join(place, directory, '../is-right'))).toBe(false)
  const memory = execFileSync('readelf', ['-Wh', join(place, directory, 'memory.elf')], { encoding: 'utf8' })
  expect(memory).toContain('CORE (Core file)')
  expect(readFileSync(join(place, 'test-results/junit.xml'), 'utf8')).toContain(
    `[[ATTACHMENT|${directory}/verdict.json]]`,
  )
  expect(output).toMatch(
    /^rerun: KVITEST_HOST=\S+ npx vitest run fixture.test.ts --project .* -t '\^is "wrong"\$'$/m,
  )
})
