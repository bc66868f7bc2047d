/** A real probe on a KVM in which a break is planted: the run of the matrix says by itself what makes it red. */
import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { whyNoKvm } from '../native/testing/bare-guest.ts'
import { cells, entry, matrix } from './testing/matrix-files.ts'
import { TemporaryProject } from './testing/run-vitest.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const PATIENCE = 300_000
const options = { test: { include: ['**/*.matrix.ts'], maxWorkers: 2 } }

/** A probe, beside it the same on a KVM that misbehaves, which is bad, and a third whose failure is expected. */
const probes = (fields: string) =>
  matrix('m', `tools: [probe, bad, known], baseline: { tool: 'probe-6.1' }, ${fields}`).replace(
    'defineMatrix({ name',
    `import { abiProbe, planted } from '${ROOT}/src/vitest/matrix.ts'
const probe = abiProbe({ version: '6.1', source: import.meta.dirname + '/probe.c' })
const [bad, known] = [[], ['msr-gone=0x174']].map((more) => planted(probe, ['capability-gone=KVM_CAP_XSAVE', ...more]))
defineMatrix({ name`,
  )
const probeC = `#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
int main(void) {
  int kvm = open("/dev/kvm", O_RDWR);
  printf("%s 1 - it is KVM\\n", ioctl(kvm, KVM_GET_API_VERSION, 0) == 12 ? "ok" : "not ok");
  printf("%s 2 - it has XSAVE\\n", ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) > 0 ? "ok" : "not ok");
  printf("1..2\\n");
  return 0;
}
`
const badProbe = 'probe-6.1 with capability-gone=KVM_CAP_XSAVE'
const knownProbe = `${badProbe} msr-gone=0x174`
const probeFiles = (fields: string) => {
  const names = ['probe-6.1', badProbe, knownProbe]
  const points = names.map((name) => [name, ['it is KVM', 'it has XSAVE', 'the run']])
  return {
    'm.matrix.ts': probes(fields),
    'probe.c': probeC,
    'm.cells.json': cells(
      names.map((name) => `local > ${name}`),
      Object.fromEntries(points),
    ),
    'x.expect.yaml': `failures:\n${entry(`m.matrix.ts > local > ${knownProbe} > it has XSAVE`)}\n`,
  }
}

const noKvm = whyNoKvm()
describe.skipIf(noKvm)(`a cell that turns red in a run${noKvm ? ` (skipped: ${noKvm})` : ''}`, () => {
  const found = [
    `local > ${badProbe}: it is the tool that makes it has XSAVE red`,
    `  minimal failing cell: local > ${badProbe}`,
    `    rerun: npx kvitest bisect m.matrix.ts --run 'local > ${badProbe}'`,
    '  nearest passing cell: local > probe-6.1',
    "    rerun: npx kvitest bisect m.matrix.ts --run 'local > probe-6.1'",
    '  confirmed: bad, good, bad run anew: bad, good, bad',
  ].map((line) => `    kvitest  ${line}`)

  test.for<[string, string, NodeJS.ProcessEnv, string[]]>([
    ['by the declaration', 'bisect: true', {}, found],
    ['by KVITEST_BISECT', '', { KVITEST_BISECT: '1' }, found],
    ['not without either', '', {}, []],
  ])(
    'is traced to what makes it so at its end: %s',
    { timeout: PATIENCE },
    async ([, fields, env, expected]) => {
      using project = new TemporaryProject(probeFiles(fields), { ...options, env })
      const { tests, output } = await project.run()

      const red = Object.entries(tests).filter(([, { status }]) => status === 'failed')
      expect(red.map(([name]) => name)).toEqual([`local ${badProbe} it has XSAVE`])
      // Of the one whose failure is expected nothing is said.
      const lines = output
        .split('\n')
        .filter((line) => /it is the|(fail|pass)ing cell|rerun: .*bisect|confirmed/.test(line))
      expect(lines).toEqual(expected)
    },
  )
})
