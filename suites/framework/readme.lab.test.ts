/** The README's example, pasted as a reader would, is a test that passes. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root, startMarked } from './marked-process.ts'

const config = `import { defineKvitestConfig } from 'kvitest/vitest'

export default defineKvitestConfig({ include: ['*.tap.sh'], kernels: ['debian:6.12-cloud'], junit: false })
`

test('the example of the README runs and passes', async () => {
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const example = /<!-- example:begin -->\n```sh\n([\s\S]*?)```\n<!-- example:end -->/.exec(readme)?.[1]
  await mkdir(join(root, '.kvitest'), { recursive: true })
  // Inside the clone, so that the package is found by its name.
  const place = await mkdtemp(join(root, '.kvitest/readme-'))
  try {
    await writeFile(join(place, 'example.tap.sh'), example!)
    await writeFile(join(place, 'vitest.config.ts'), config)
    const result = await startMarked(['vitest', 'run', '--root', place, '--reporter=verbose']).finished

    expect(result.stdout).toContain('cpus=2 > the host echoes')
    expect(result.stdout).toMatch(/interrupt \d+: has a handler/)
    expect(result.status, result.stdout + result.stderr).toBe(0)
  } finally {
    await rm(place, { recursive: true })
  }
})
