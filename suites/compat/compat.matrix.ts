/** Old and new tools on old and new host kernels: `npx vitest run --project compat`. */
import { defineMatrix } from 'kvitest/matrix'
import { differences, guests, inLabs, tools } from './tools.ts'

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
  accelerators: ['kvm', 'tcg'],
  machines: { default: {}, smp: { cpus: 2 } },
  only: [
    ...inLabs,
    // Two CPUs, where the lab has one.
    { host: 'lab:debian:6.12-cloud', tool: 'vmm', guest: 'debian:6.12-cloud', machine: 'smp' },
    // Without hardware virtualisation `local` runs no Linux guest by KVM, and whose kernel it is nobody knows.
    { host: 'local', tool: 'probe-*' },
    { host: 'local', tool: 'qemu-*', guest: 'debian:6.12-cloud', accelerator: 'tcg', machine: 'default' },
  ],
  differences,
  baseline: { host: 'lab:debian:6.1-cloud@oldest' },
})
