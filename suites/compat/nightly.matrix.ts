/**
 * The same tools on every build of 6.1 and 6.12 that Debian serves today: `npm run test:nightly`. Hours on a
 * laptop; `--shard` deals out its cells, `--tags-filter 'host:lab:debian:6.1.*'` picks hosts.
 */
import { defineMatrix, servedHosts } from 'kvitest/matrix'
import { differences, guests, inLabs, tools } from './tools.ts'

const hosts = await servedHosts(['6.1', '6.12'])

defineMatrix({
  name: 'nightly',
  tools,
  hosts,
  guests,
  only: inLabs,
  // The builds come and go; the points of each tool are the ones of compat.
  pointsOf: 'compat.cells.json',
  differences,
  baseline: { host: hosts[0]! },
})
