import { expect, test } from 'vitest'
import { servedBuilds } from '../image/debian-kernel.ts'
import { expandMatrix } from './declare.ts'
import { hostsOfBuilds, servedHosts } from './served-hosts.ts'

test('there is a lab for every build that Debian serves of the lines, and nothing else', async () => {
  const hosts = await servedHosts(['6.1', '6.12'])
  const builds = await servedBuilds(['6.1', '6.12'])

  expect(hosts).toEqual(builds.map(({ name }) => `lab:${name}`))
  expect(hosts.findLastIndex((host) => host.startsWith('lab:debian:6.1.'))).toBeLessThan(
    hosts.findIndex((host) => host.startsWith('lab:debian:6.12.')),
  )
  // Hosts of a matrix: each has a name of its own.
  const tool = { name: 't', takesGuest: false, need: { cpus: 1, memory: 0 }, prepare: () => Promise.reject() }
  expect(expandMatrix({ name: 'night', tools: [tool], hosts })).toHaveLength(builds.length)
})

test('a line with one build only is no archive, and a line that nobody knows is named', async () => {
  const builds = ['6.1.1', '6.1.2', '6.12.1'].map((version) => ({
    name: `debian:${version}-cloud`,
    line: version.replace(/\.\d+$/, ''),
  }))
  expect(hostsOfBuilds(['6.1'], builds.slice(0, 2))).toEqual([
    'lab:debian:6.1.1-cloud',
    'lab:debian:6.1.2-cloud',
  ])
  expect(() => hostsOfBuilds(['6.1', '6.12'], builds)).toThrow(/of 6\.12 there is one only; apt-get update/)
  await expect(servedHosts(['5.4'])).rejects.toThrow(/debian:5\.4-cloud/)
})
