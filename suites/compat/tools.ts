/** The tools of suites/compat: old and new ones, each as Debian's newest build of its line. */
import {
  abiProbe,
  type CellPattern,
  checkpoint,
  type FingerprintDifference,
  kvmSelftests,
  linuxPerf,
  ownVmm,
  qemu,
  type Tool,
} from 'kvitest/matrix'

/** What these would use by themselves is too much for a lab of one emulated CPU. */
const small = {
  access_tracking_perf_test: ['-b', '16M', '-v', '1'],
  demand_paging_test: ['-b', '16M', '-v', '1'],
  dirty_log_perf_test: ['-b', '16M', '-v', '1', '-i', '2'],
  kvm_page_table_test: ['-b', '64M', '-v', '1'],
  memslot_modification_stress_test: ['-i', '10', '-v', '1'],
}

const slow = 'needs minutes on an emulated CPU, whatever its arguments'

/** Milliseconds for a guest within an emulated CPU, of which others may have the most. */
const patience = 300_000

const perf61 = { version: '6.1' }
const perf612 = { version: '6.12', suite: 'trixie' }

export const tools: Tool[] = [
  kvmSelftests({
    version: '6.1',
    arguments: small,
    leaveOut: { memslot_perf_test: slow, hardware_disable_test: slow },
  }),
  kvmSelftests({
    version: '6.12',
    arguments: small,
    leaveOut: { memslot_perf_test: slow, hardware_disable_test: slow, dirty_log_test: slow },
  }),
  abiProbe({ version: '6.1' }),
  abiProbe({ version: '6.12', suite: 'trixie' }),
  linuxPerf({ ...perf61, readBy: [perf612], deadline: patience }),
  linuxPerf({ ...perf612, readBy: [perf61], deadline: patience }),
  qemu({ version: '7.2', deadline: patience }),
  ownVmm({ deadline: patience }),
  checkpoint({ of: 'lab:debian:6.1-cloud@oldest', deadline: patience }),
  checkpoint({ of: 'lab:debian:6.12-cloud', deadline: patience }),
]

export const guests = ['debian:6.1-cloud', 'debian:6.12-cloud']

const plain = { accelerator: 'kvm', machine: 'default' }

/** What runs in a lab; which kernel a guest has is the least of what a checkpoint depends on. */
export const inLabs: CellPattern[] = [
  ...['selftests-*', 'probe-*', 'perf-*', 'qemu-*', 'vmm'].map((tool) => ({ host: 'lab:*', tool, ...plain })),
  { host: 'lab:*', tool: 'checkpoint-*', guest: 'debian:6.12-cloud', ...plain },
]

/** What a guest may see of its machine that differs from the baseline's. */
export const differences: FingerprintDifference[] = [
  {
    host: 'lab:debian:6.12*',
    key: 'cpuid 8000000a.0 edx',
    reason: 'KVM of 6.12 offers flush by ASID to a nested hypervisor',
  },
  {
    host: 'lab:debian:6.12*',
    tool: 'vmm',
    key: 'cpuid 80000005.0 *',
    reason: 'KVM of 6.12 hands L1 caches and TLBs on',
  },
  {
    host: 'lab:debian:6.12*',
    tool: 'vmm',
    key: 'cpuid 80000008.0 eax',
    reason: 'KVM of 6.12 says how many bits of a physical address it can map (GuestPhysBits)',
  },
]
