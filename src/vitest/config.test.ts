import { expect, test } from 'vitest'
import config from '../../vitest.config.ts'
import { TemporaryProject } from './testing/run-vitest.ts'

interface Project {
  plugins?: { api?: object }[]
  test: { name: string; include: string[] }
}

const projects = config.test!.projects as unknown as Project[]

test('every suite with guests or hosts of its own honours *.expect.yaml: its projects use the plugin', () => {
  const suites = projects.filter(({ test: { include } }) =>
    include.every((pattern) => /^suites\/(?!framework)/.test(pattern)),
  )
  expect(suites.map(({ test: { name } }) => name)).toEqual(
    expect.arrayContaining(['kvm (local)', 'kvm (lab 6.1)', 'virtio (debian:6.12-cloud)']),
  )
  const without = suites.filter(({ plugins = [] }) => !plugins.some(({ api }) => api && 'kvitest' in api))
  expect(without.map(({ test: { name } }) => name)).toEqual([])
})

const blocks = `import { afterAll, describe, test } from 'vitest'
let running = 0
let most = 0
for (const name of ['a', 'b', 'c', 'd', 'e']) {
  describe(name, { concurrent: true }, () => {
    test('t', { concurrent: false }, async () => {
      most = Math.max(most, ++running)
      await new Promise((done) => setTimeout(done, 500))
      running--
    })
  })
}
afterAll(() => { if (most !== 2) throw new Error(most + ' at once') })
`

test('what a project says of its concurrency counts: hosts of a matrix that are worked at side by side', async () => {
  using project = new TemporaryProject(
    { 'a.test.ts': blocks },
    { test: { include: ['*.test.ts'], maxConcurrency: 2 } },
  )
  const { status, output } = await project.run()
  expect(status, output).toBe(0)
})
