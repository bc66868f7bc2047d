import { expect, test } from 'vitest'
import config from '../../vitest.config.ts'

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
