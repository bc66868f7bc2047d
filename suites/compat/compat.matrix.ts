/** Old and new tools on old and new host kernels: `npx vitest run --project compat`. */
import { abiProbe, defineMatrix, kvmSelftests } from 'kvitest/matrix'

/** What these would use by themselves is too much for a lab of one emulated CPU. */
const small = {
  access_tracking_perf_test: ['-b', '16M', '-v', '1'],
  demand_paging_test: ['-b', '16M', '-v', '1'],
  dirty_log_perf_test: ['-b', '16M', '-v', '1', '-i', '2'],
  dirty_log_test: ['-i', '4', '-I', '10'],
  memslot_modification_stress_test: ['-i', '10', '-v', '1'],
}

defineMatrix({
  name: 'compat',
  tools: [
    kvmSelftests({ version: '6.1', arguments: small }),
    kvmSelftests({ version: '6.12', arguments: small }),
    abiProbe({ version: '6.1' }),
    abiProbe({ version: '6.12', suite: 'trixie' }),
  ],
  hosts: ['lab:debian:6.1-cloud', 'lab:debian:6.12-cloud', 'local'],
  only: [{ host: 'lab:*' }, { host: 'local', tool: 'probe-*' }],
  baseline: { host: 'lab:debian:6.1-cloud' },
})
