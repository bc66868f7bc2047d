/** Expectations with real guests: docs/expectations.md as a reader would paste it, and a splat that a kernel printed. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { root, startMarked } from './marked-process.ts'

const config = `import { defineKvitestConfig } from 'kvitest/vitest'

export default defineKvitestConfig({ include: ['*.tap.sh', '*.test.ts'], kernels: ['debian:6.12-cloud'] })
`
const provoke = `${root}/fixtures/modules/provoke.c`
const ask = 'echo warn >/sys/module/provoke/parameters/do'

const warns = `#!/bin/sh
# guest: { modules: [${provoke}] }
echo 1..1
${ask}
echo ok 1 - warned
`
const warnsToo = `import { expect, test } from 'kvitest/test'

test.override('guestOptions', { modules: ['${provoke}'] })

test('warned', async ({ guest }) => {
  expect(await guest.exec(['sh', '-c', '${ask}'])).toExitWith(0)
})
`
const flaky = `import { expect, test } from 'kvitest/test'

let attempts = 0

test('second time lucky', async ({ guest }) => {
  expect(await guest.exec(['test', '-e', '/tmp/mark'])).toExitWith(1)
  await guest.writeFile('/tmp/mark', '')
  await guest.reset()
  expect(++attempts).toBe(2)
})
`
const unborn = `import { test } from 'kvitest/test'

test.override('guestOptions', { kernel: './no-such-kernel' })

test('never starts', async ({ guest }) => void guest)
`
/** Its splat comes before the agent greets, so the checkpoint has it already. */
const loud = `#include <linux/module.h>
static int __init loud(void)
{
	WARN(1, "loud");
	return 0;
}
module_init(loud);
MODULE_LICENSE("GPL");
`
const bootWarns = `#!/bin/sh
# guest: { modules: [./loud.c] }
echo 1..1
echo ok 1 - booted
`
const splats = `splats:
  - pattern: 'at provoke\\.c:\\d+ provoke_warn'
    kernel: '6.12.x'
    reason: the test asks for it
    link: https://example.org/1
    expires: 2099-12-31
  - pattern: ' loud\\+0x.* \\[loud\\]$'
    reason: the module warns when it is loaded
    link: https://example.org/2
    expires: 2099-12-31
`

let place: string

beforeAll(async () => {
  await mkdir(join(root, '.kvitest'), { recursive: true })
  // Inside the clone, so that the package is found by its name.
  place = await mkdtemp(join(root, '.kvitest/expectations-'))
  const document = await readFile(join(root, 'docs/expectations.md'), 'utf8')
  const example = /<!-- example:begin -->\n([\s\S]*?)<!-- example:end -->/.exec(document)![1]!
  for (const [, name, text] of example.matchAll(/`([\w.]+)`:\n```\w+\n([\s\S]*?)```/g))
    await write(name!, text!)
  await write('vitest.config.ts', config)
  await write('warns.tap.sh', warns)
  await write('warns.test.ts', warnsToo)
  await write('flaky.test.ts', flaky)
  await write('loud.c', loud)
  await write('boot-warns.tap.sh', bootWarns)
  await write('warns.expect.yaml', splats)
})

afterAll(async () => {
  await rm(place, { recursive: true })
})

function write(name: string, text: string): Promise<void> {
  return writeFile(join(place, name), text)
}

async function run(...args: string[]) {
  const { stdout, stderr, status } = await startMarked(['vitest', 'run', '--root', place, ...args]).finished
  return {
    output: stdout + stderr,
    status,
    junit: await readFile(join(place, 'test-results/junit.xml'), 'utf8'),
  }
}

test('what is known fails nothing: a failure, a skip, a splat of the kernel; a retry has a fork of its own', async () => {
  const { output, status, junit } = await run('--retry=1')
  expect(output).toMatch(/7 guests: 2 fail, 2 pass, 3 without a script/)
  expect(output).toContain('7 forks, 0 boots, 2 resets')
  expect(output).toMatch(/1 flaky test, failed and then passed:\n.*flaky\.test\.ts > second time lucky/)
  expect(junit.match(/<flakyFailure /g)).toHaveLength(1)
  expect(output).toContain('2 expected failures:')
  expect(junit.match(/<skipped message="expected failure: kvitest has no virtio-net/g)).toHaveLength(2)
  expect(junit).toContain('<skipped message="one CPU"/>')
  expect(junit).toMatch(/guest\.allowed" value="WARNING: [^"]*provoke_warn[^"]*\(warns\.expect\.yaml:2\)/)
  expect(junit).toMatch(/guest\.allowed" value="WARNING: [^"]* loud[^"]*\(warns\.expect\.yaml:7\)/)
  expect(status, output).toBe(0)
})

test('what is no longer true does: a pass, a splat that nobody saw', async () => {
  const script = await readFile(join(place, 'network.tap.sh'), 'utf8')
  await write('network.tap.sh', script.replace('/sys/class/net/eth0', '/sys/class/net/lo'))
  await write('warns.tap.sh', warns.replace(ask, 'true'))
  await write('warns.test.ts', warnsToo.replace(ask, 'true'))
  const { output, status } = await run()
  expect(output).toMatch(/2 unexpected passes:\n.*cpus=1 > there is a network card: network\.expect\.yaml:2/)
  expect(output).toContain(
    'warns.expect.yaml:2: the test asks for it, https://example.org/1: nothing in this run',
  )
  expect(status).toBe(1)
})

test('what nobody expects does: a splat that is not allowed, a guest that never was', async () => {
  await write('warns.tap.sh', warns)
  await write('warns.expect.yaml', splats.replace('6.12.x', '6.1.x'))
  await write('unborn.test.ts', unborn)
  const { output, status } = await run('warns.tap.sh', 'unborn.test.ts')
  expect(output).toContain('3 guests: 1 infra, 1 oops, 1 pass')
  expect(output).toMatch(/oops: WARNING: .* provoke_warn/)
  expect(status).toBe(1)
})

test('a check of KVM is known to fail by test, host and kernel of the host', async () => {
  const folder = join(place, 'kvm')
  await mkdir(folder)
  const check = JSON.stringify(join(root, 'suites/kvm/check.ts'))
  const claim = JSON.stringify(join(root, 'suites/kvm/claim.ts'))
  await writeFile(
    join(folder, 'wrong.test.ts'),
    `import { KVM } from 'kvitest'
import { check } from ${check}
import { documented } from ${claim}
const version = documented('KVM_GET_API_VERSION')
for (const name of ['here', 'elsewhere', 'later']) check(name, version, (b) => b.sys(KVM.GET_API_VERSION), 11)
`,
  )
  const entry = (test: string, more: string) =>
    `  - { test: 'wrong.test.ts > ${test}', reason: it is 12, link: 'https://example.org/', expires: 2099-12-31, ${more} }\n`
  await writeFile(
    join(folder, 'wrong.expect.yaml'),
    `failures:\n${entry('here', "host: 'lab:*', kernel: '6.12.x'")}${entry('elsewhere', 'host: local')}${entry('later', "kernel: '>=6.13'")}`,
  )
  await writeFile(
    join(folder, 'vitest.config.ts'),
    `import { kvitest } from 'kvitest/vitest'
export default { plugins: [kvitest({ host: 'lab:debian:6.12-cloud' })], test: { include: ['*.test.ts'] } }
`,
  )
  const { stdout, stderr } = await startMarked(['vitest', 'run', '--root', folder, '--reporter=verbose'])
    .finished
  const output = stdout + stderr
  expect(output).toMatch(/✓ wrong\.test\.ts > here/)
  expect(output).toMatch(/[×✗] wrong\.test\.ts > elsewhere/)
  expect(output).toMatch(/[×✗] wrong\.test\.ts > later/)
  expect(output).toContain('1 expected failure:')
})
