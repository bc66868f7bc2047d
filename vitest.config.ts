import { defineConfig } from 'vitest/config'
import { guestWorkers, kvitestProjects } from './src/vitest/index.ts'

export default defineConfig({
  test: {
    maxWorkers: guestWorkers(),
    reporters: ['default'],
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'fixtures/**/*.test.ts'],
          exclude: ['**/*.lab.test.ts', '**/*.long.test.ts'],
          testTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'lab',
          include: ['src/**/*.lab.test.ts', 'suites/framework/**/*.lab.test.ts'],
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
          include: ['src/**/*.long.test.ts', 'suites/framework/**/*.long.test.ts'],
          testTimeout: 900_000,
          hookTimeout: 180_000,
          globalSetup: ['src/vitest/global-setup.ts'],
        },
      },
      ...kvitestProjects({
        name: 'virtio',
        include: ['suites/virtio/**/*.tap.*', 'suites/virtio/**/*.test.ts'],
      }),
    ],
  },
})
