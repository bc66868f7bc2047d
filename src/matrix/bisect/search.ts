/** Where a cell became bad: which axis, and between which two builds. It knows no host and no tool, only outcomes. */
import { type Axis, axisValue, type Coordinates, cellName } from '../axes.ts'

/** In the order in which they are tried: what is cheap to change first, while the lab stays. */
const order: readonly Axis[] = ['machine', 'accelerator', 'guest', 'tool', 'host']

/** `unknown`: it says nothing, because the cell could not be run or compared. */
export type Outcome = 'bad' | 'good' | 'unknown'

export type TryCell = (cell: Coordinates) => Promise<Outcome>

export function differingAxes(a: Coordinates, b: Coordinates): Axis[] {
  return order.filter((axis) => axisValue(a, axis) !== axisValue(b, axis))
}

/** Each cell once. */
export function remembering(tryCell: TryCell): TryCell {
  const known = new Map<string, Promise<Outcome>>()
  return (cell) => {
    const name = cellName(cell)
    const outcome = known.get(name) ?? tryCell(cell)
    known.set(name, outcome)
    return outcome
  }
}

export interface AxesFound {
  /** The bad cell with as much of the good one as it can have and still be bad. */
  bad: Coordinates
  /** Good, and only one axis away. */
  good?: { cell: Coordinates; axis: Axis }
  /** Why there is no such pair: these say nothing. */
  unknown: Coordinates[]
}

/**
 * Takes one axis after the other from a cell that is good, as long as the cell stays bad, until none is left to take.
 * Both cells are known: they are not tried.
 */
export async function bisectAxes(bad: Coordinates, good: Coordinates, tryCell: TryCell): Promise<AxesFound> {
  const once = remembering(async (cell) => (cellName(cell) === cellName(good) ? 'good' : tryCell(cell)))
  let current = bad
  let neighbour: AxesFound['good']
  const unknown = new Map<string, Coordinates>()
  for (let moved = true; moved; ) {
    moved = false
    neighbour = undefined
    unknown.clear()
    for (const axis of differingAxes(current, good)) {
      const { [axis]: _, ...others } = current
      const cell = { ...others, ...(good[axis] === undefined ? {} : { [axis]: good[axis] }) } as Coordinates
      const outcome = await once(cell)
      if (outcome === 'good') neighbour = { cell, axis }
      else if (outcome === 'unknown') unknown.set(cellName(cell), cell)
      else {
        // What was good beside the one before need not be beside this one.
        current = cell
        moved = true
        break
      }
    }
  }
  return { bad: current, ...(neighbour ? { good: neighbour } : {}), unknown: [...unknown.values()] }
}

export interface BuildsFound {
  /** Neighbours among what could be tried. */
  good: string
  bad: string
  /** Between them, and none that says anything. */
  unknown: string[]
}

/**
 * The two neighbours of a row of builds between which it goes from good, the first, to bad, the last: both are known.
 * A build that says nothing is stepped over, as git bisect skip does. When the row goes to and fro it is one of several.
 */
export async function bisectBuilds(
  builds: readonly string[],
  tryBuild: (build: string) => Promise<Outcome>,
): Promise<BuildsFound> {
  let low = 0
  let high = builds.length - 1
  const silent = new Set<number>()
  for (;;) {
    const between = Array.from({ length: high - low - 1 }, (_, i) => low + 1 + i).filter(
      (at) => !silent.has(at),
    )
    if (between.length === 0) break
    const at = between[Math.floor(between.length / 2)]!
    const outcome = await tryBuild(builds[at]!)
    if (outcome === 'unknown') silent.add(at)
    else if (outcome === 'bad') high = at
    else low = at
  }
  const unknown = [...silent].filter((at) => at > low && at < high).toSorted((a, b) => a - b)
  return { good: builds[low]!, bad: builds[high]!, unknown: unknown.map((at) => builds[at]!) }
}

/**
 * Bad, good, bad once more: one that is otherwise in any of them is flaky, and no verdict. Nothing remembered: every
 * cell is run anew.
 */
export async function confirmed(
  bad: Coordinates,
  good: Coordinates,
  tryCell: TryCell,
): Promise<{ isConfirmed: boolean; outcomes: Outcome[] }> {
  const outcomes: Outcome[] = []
  for (const cell of [bad, good, bad]) outcomes.push(await tryCell(cell))
  return { isConfirmed: outcomes.join(' ') === 'bad good bad', outcomes }
}
