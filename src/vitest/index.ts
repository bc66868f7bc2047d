/** kvitest's face to vitest configs and to test files. */
export {
  DEFAULT_KERNELS,
  defineKvitestConfig,
  guestWorkers,
  type KvitestProjectOptions,
  kvitestProjects,
} from './config.ts'
export type { GuestMeta, PointMeta } from './meta.ts'
export { type KvitestOptions, kvitest } from './plugin.ts'
