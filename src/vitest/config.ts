import { cpus } from 'node:os'
import { defineConfig, type TestProjectInlineConfiguration, type ViteUserConfig } from 'vitest/config'
import { type KvitestOptions, kvitest } from './plugin.ts'

export const DEFAULT_KERNELS = ['debian:6.12-cloud', 'debian:6.1-cloud']
/** Guests wait for the lab more than for this machine's CPUs, so a few files run at once even on two of them. */
const MIN_WORKERS = 4

export interface KvitestProjectOptions extends Omit<KvitestOptions, 'kernel'> {
  /** Name before the kernel's in the project's name: `virtio (debian:6.1-cloud)`. */
  name?: string
  /** Globs of scripts and tests. */
  include?: string[]
  /** One vitest project each. `KVITEST_KERNEL` narrows it to one, of this list or not. Default: 6.12 and 6.1. */
  kernels?: string[]
}

/** One vitest project per kernel. */
export function kvitestProjects(options: KvitestProjectOptions = {}): TestProjectInlineConfiguration[] {
  const { name, include, kernels = DEFAULT_KERNELS, ...rest } = options
  const asked = process.env.KVITEST_KERNEL
  return (asked ? [asked] : kernels).map((kernel) => ({
    extends: true,
    plugins: [kvitest({ ...rest, kernel })],
    test: {
      name: name === undefined ? kernel : `${name} (${kernel})`,
      ...(include === undefined ? {} : { include }),
    },
  }))
}

/** How many test files run at once where guests are what they wait for. */
export function guestWorkers(): number {
  return Math.max(MIN_WORKERS, cpus().length)
}

/** A whole vitest config: one project per kernel, workers for guests. */
export function defineKvitestConfig(
  options: KvitestProjectOptions = {},
  config: ViteUserConfig = {},
): ViteUserConfig {
  return defineConfig({
    ...config,
    test: {
      maxWorkers: guestWorkers(),
      ...config.test,
      projects: [...(config.test?.projects ?? []), ...kvitestProjects(options)],
    },
  })
}
