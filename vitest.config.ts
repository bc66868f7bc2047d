import { availableParallelism } from 'node:os'
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config'
import { guestWorkers, kvitest, kvitestProjects } from './src/vitest/index.ts'
import { kvmReport } from './suites/kvm/report/reporter.ts'

/** Hosts of a matrix that are worked at side by side. */
const labsAtOnce = availableParallelism()

/** The behaviour checks of KVM, on each of these hosts. `KVITEST_HOST` narrows it to one, of this list or not. */
function kvmProjects(hosts: Record<string, string>): TestProjectInlineConfiguration[] {
  const asked = process.env.KVITEST_HOST
  const known = Object.entries(hosts)
  const narrowed = asked ? (known.find(([, host]) => host === asked) ?? [asked, asked]) : undefined
  return (narrowed ? [narrowed as [string, string]] : known).map(([name, host]) => ({
    extends: true,
    // With the first come the expectations of suites/kvm/*.expect.yaml.
    plugins: [kvitest({ host }), kvmReport()],
    test: {
      name: `kvm (${name})`,
      include: ['suites/kvm/*.test.ts'],
      testTimeout: 60_000,
      hookTimeout: 180_000,
    },
  }))
}

/** `npm test`, which has to end within 20 minutes on two CPUs that emulate, and `npm start`, which a newcomer waits for. */
const isShort = process.env.KVITEST_SUITE === 'short'

/**
 * What these have no time for, on a machine that is slow that day too; rings.tap.sh has every device at work. `npm run test:long`
 * runs all of suites/virtio on both kernels.
 */
const longest =
  'balloon blk-queues blk.test boot console edges forks intx lifecycle memory net pci personality programs scsi toggles unplug vsock'.split(
    ' ',
  )

/** What they run on the first guest kernel only. */
const lengthy = ['blk', 'rings']

/** Eight guests at once on a machine that is slow that day: one took two minutes for what takes half of one. */
function patient(project: TestProjectInlineConfiguration): TestProjectInlineConfiguration {
  return { ...project, test: { ...project.test, testTimeout: 600_000, hookTimeout: 300_000 } }
}

function shortened(project: TestProjectInlineConfiguration, at: number): TestProjectInlineConfiguration {
  if (!isShort) return project
  const left = at === 0 ? longest : [...longest, ...lengthy]
  return { ...project, test: { ...project.test, exclude: left.map((name) => `suites/virtio/${name}*`) } }
}

export default defineConfig({
  test: {
    maxWorkers: guestWorkers(),
    reporters: ['default'],
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'fixtures/**/*.test.ts', 'suites/kvm/report/*.test.ts'],
          exclude: ['**/*.lab.test.ts', '**/*.long.test.ts'],
          testTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'lab',
          include: ['src/**/*.lab.test.ts', 'suites/framework/**/*.lab.test.ts'],
          // leaks.long.test.ts has the same ends, and more, of a longer run; the other two are in unit tests with stand-ins.
          exclude: isShort
            ? ['artifacts', 'expectations', 'leaks'].map((name) => `suites/framework/${name}.lab.test.ts`)
            : [],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          globalSetup: ['src/vitest/global-setup.ts'],
          runner: './src/vitest/runner.ts',
        },
      },
      {
        extends: true,
        test: {
          // What takes minutes each: `npm run test:long`.
          name: 'long',
          include: ['src/**/*.long.test.ts', 'suites/{framework,virtio}/**/*.long.test.ts'],
          testTimeout: 900_000,
          hookTimeout: 180_000,
          globalSetup: ['src/vitest/global-setup.ts'],
        },
      },
      ...kvmProjects({
        local: 'local',
        'lab 6.12': 'lab:debian:6.12-cloud',
        'lab 6.1': 'lab:debian:6.1-cloud',
      }),
      {
        extends: true,
        // The compatibility matrix: `npx vitest run --project compat`.
        plugins: [kvitest()],
        // One lab a core: more of them share the cores, and get no further.
        test: { name: 'compat', include: ['suites/compat/compat.matrix.ts'], maxConcurrency: labsAtOnce },
      },
      {
        extends: true,
        // Every build of a host kernel that Debian serves: `npm run test:nightly`.
        plugins: [kvitest()],
        test: { name: 'nightly', include: ['suites/compat/nightly.matrix.ts'], maxConcurrency: labsAtOnce },
      },
      ...kvitestProjects({
        name: 'virtio',
        include: ['suites/virtio/**/*.tap.*', 'suites/virtio/**/!(*.long).test.ts'],
      })
        .map(patient)
        .map(shortened),
    ],
  },
})
