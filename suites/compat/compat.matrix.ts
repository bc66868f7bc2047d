/** Old and new tools on old and new host kernels: `npx vitest run --project compat`. */
import { defineMatrix } from 'kvitest/matrix'
import { differences, guests, tools } from './tools.ts'

defineMatrix({
  name: 'compat',
  tools,
  hosts: [
    'lab:debian:6.1-cloud@oldest',
    'lab:debian:6.1-cloud',
    'lab:debian:6.12-cloud@oldest',
    'lab:debian:6.12-cloud',
    'local',
  ],
  guests,
  // Without hardware virtualisation `local` runs no Linux guest, and whose kernel it is nobody knows.
  only: [{ host: 'lab:*' }, { host: 'local', tool: 'probe-*' }],
  differences,
  baseline: { host: 'lab:debian:6.1-cloud@oldest' },
})
