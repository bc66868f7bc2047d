import { join, relative, resolve } from 'node:path'
import { pathPart } from '../report/guest-artifacts.ts'
import { type Rerun, rerunCommand } from '../report/rerun.ts'

/** Which guests leave artifacts. */
export type ArtifactsWhen = 'failed' | 'always' | 'none'

/** What a worker must know of its run: the plugin says it, in the environment. */
export interface RunPlace {
  /** Absolute. */
  root: string
  project: string
  /** Absolute. */
  artifacts: string
  when: ArtifactsWhen
  core: boolean
  /** vitest's config file, when it is not one that vitest finds by itself. */
  config?: string
}

const variable = 'KVITEST_RUN_PLACE'

export function runPlaceVariables(place: RunPlace): Record<string, string> {
  return { [variable]: JSON.stringify(place) }
}

/** Undefined where the plugin is not used; from a project's own environment in the main process. */
export function runPlace(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): RunPlace | undefined {
  const text = environment[variable]
  return text ? JSON.parse(text) : undefined
}

/** Directories that guests of this worker have. */
const claimed = new Map<string, number>()

/** The directory of the next guest of this name: the second one is the first's retry. */
export function claimDirectory(place: RunPlace, file: string, guest: string): string {
  const parts = relative(place.root, file)
    .split('/')
    .map((part) => pathPart(part))
  const base = join(
    place.artifacts,
    ...(place.project ? [pathPart(place.project)] : []),
    ...parts,
    pathPart(guest),
  )
  const before = claimed.get(base) ?? 0
  claimed.set(base, before + 1)
  return before === 0 ? base : `${base}-retry${before}`
}

/** The command that runs a test again from the root of the run. */
export function rerunIn(
  place: RunPlace | undefined,
  file: string,
  what: Pick<Rerun, 'test' | 'block' | 'host' | 'kernel'>,
): string {
  const { root = process.cwd(), project = '', config } = place ?? {}
  const { kernel, ...rest } = what
  return rerunCommand({
    file: relative(root, file),
    project,
    ...rest,
    // A project of a matrix names its kernel.
    kernel: kernel !== undefined && project.includes(kernel) ? undefined : kernel,
    config: config === undefined ? undefined : relative(root, resolve(root, config)),
  })
}
