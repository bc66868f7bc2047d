/** The example of docs/typescript.md, pasted as a reader would, is a file of tests that pass. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root, startMarked } from './marked-process.ts'

const config = `import { defineKvitestConfig } from 'kvitest/vitest'

export default defineKvitestConfig({ include: ['*.test.ts'], kernels: ['debian:6.12-cloud'], junit: false })
`

test('the matchers of docs/typescript.md work as shown, and a wrong one fails', async () => {
  const text = await readFile(join(root, 'docs/typescript.md'), 'utf8')
  const example = /<!-- matchers:begin -->\n```ts\n([\s\S]*?)```\n<!-- matchers:end -->/.exec(text)![1]!
  await mkdir(join(root, '.kvitest'), { recursive: true })
  // Inside the clone, so that the package is found by its name.
  const place = await mkdtemp(join(root, '.kvitest/matchers-'))
  try {
    const wrong = "\ntest('wrong', async ({ guest }) => expect(await guest.exec(['false'])).toExitWith(0))\n"
    await writeFile(join(place, 'example.test.ts'), example + wrong)
    await writeFile(join(place, 'vitest.config.ts'), config)
    const { stdout, stderr } = await startMarked(['vitest', 'run', '--root', place, '--reporter=verbose'])
      .finished
    expect(stdout, stdout + stderr).toMatch(/Tests {2}1 failed \| 4 passed/)
    expect(stderr).toContain('the command exited with status 1, not with status 0')
  } finally {
    await rm(place, { recursive: true })
  }
})
