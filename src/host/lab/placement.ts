import type { ClientRequest } from './rpc.ts'

/** What a session needs; as in ClientRequest. */
export type PlaceRequest = Pick<ClientRequest, 'cpus' | 'memory' | 'lab' | 'checkpoint'>

/** How busy a lab is, and which checkpoints it has or is making. */
export interface Load {
  checkpoints: ReadonlySet<string>
  /** vCPUs and bytes of the guests placed there. */
  cpus: number
  memory: number
}

/** Kernels that may have labs while nobody uses them. */
const mostKernels = 4

/** Of kernels with labs those whose are to end: nobody uses them, and there are too many, whoever uses the others. */
export function kernelsToRetire<P extends { hasLabs: boolean; isIdle: boolean }>(
  pools: ReadonlyMap<string, P>,
): [string, P][] {
  const live = [...pools].filter(([, { hasLabs }]) => hasLabs)
  return live.filter(([, { isIdle }]) => isIdle).slice(0, Math.max(0, live.length - mostKernels))
}

/** To make a checkpoint first costs about as much as to share the lab with so many vCPUs of others. */
const makingCost = 1

/** A lab that is not there yet: which checkpoints it begins with. */
export type NewLab = Pick<Load, 'checkpoints'>

/**
 * The least loaded lab; undefined when one more had better be started, where that is given. A lab that has the wanted
 * checkpoint may be busier than one that must make it.
 */
export function placeFor<P extends Load>(
  labs: Iterable<P>,
  want: PlaceRequest,
  another: NewLab | undefined,
): P | undefined {
  const extra = ({ checkpoints }: NewLab) =>
    want.checkpoint === undefined || checkpoints.has(want.checkpoint) ? 0 : makingCost
  const cost = (lab: Load) => lab.cpus + extra(lab)
  const [least] = [...labs].sort((a, b) => cost(a) - cost(b) || extra(a) - extra(b) || a.memory - b.memory)
  if (!least || !another || want.cpus === 0) return least
  return cost(least) <= extra(another) ? least : undefined
}
