/** Old and new tools on old and new host kernels: `npx vitest run --project compat`. */
import { abiProbe, defineMatrix, kvmSelftests, ownVmm, qemu } from 'kvitest/matrix'

/** What these would use by themselves is too much for a lab of one emulated CPU. */
const small = {
  access_tracking_perf_test: ['-b', '16M', '-v', '1'],
  demand_paging_test: ['-b', '16M', '-v', '1'],
  dirty_log_perf_test: ['-b', '16M', '-v', '1', '-i', '2'],
  kvm_page_table_test: ['-b', '64M', '-v', '1'],
  memslot_modification_stress_test: ['-i', '10', '-v', '1'],
}

const slow = 'needs minutes on an emulated CPU, whatever its arguments'

defineMatrix({
  name: 'compat',
  tools: [
    kvmSelftests({ version: '6.1', arguments: small, leaveOut: { memslot_perf_test: slow } }),
    kvmSelftests({
      version: '6.12',
      arguments: small,
      leaveOut: { memslot_perf_test: slow, dirty_log_test: slow },
    }),
    abiProbe({ version: '6.1' }),
    abiProbe({ version: '6.12', suite: 'trixie' }),
    qemu({ version: '7.2' }),
    ownVmm(),
  ],
  hosts: ['lab:debian:6.1-cloud', 'lab:debian:6.12-cloud', 'local'],
  guests: ['debian:6.1-cloud', 'debian:6.12-cloud'],
  // Without hardware virtualisation `local` runs no Linux guest, and whose kernel it is nobody knows.
  only: [{ host: 'lab:*' }, { host: 'local', tool: 'probe-*' }],
  baseline: { host: 'lab:debian:6.1-cloud' },
})
