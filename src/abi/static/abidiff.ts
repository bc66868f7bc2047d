/** libabigail's opinion on the same headers, where it is installed. */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { scratchDirectory } from '../../image/cache.ts'
import { complaint, runCommand } from '../../image/command.ts'
import { KvitestError } from '../../native/error.ts'
import { compileTypes, type HeaderFacts } from '../headers/compile.ts'
import type { HeaderTree } from '../headers/tree.ts'

/** Exit status of abidiff, a mask (abidiff(1)): these two say that it did not compare. */
const didNotCompare = 1 | 2

export interface CompiledTree {
  tree: HeaderTree
  facts: HeaderFacts
}

/**
 * The report of abidiff on the types of both, empty when it sees no difference; undefined when it is not installed
 * (Debian: abigail-tools). It sees structures only, no macros.
 */
export async function runAbidiff(
  before: CompiledTree,
  after: CompiledTree,
  headers: readonly string[],
): Promise<string | undefined> {
  const found = await runCommand(['abidiff', '--version']).catch(() => undefined)
  if (found?.status !== 0) return undefined
  const place = await scratchDirectory()
  try {
    const shared = [...before.facts.structs.keys()].filter((name) => after.facts.structs.has(name))
    const objects: string[] = []
    for (const [index, { tree, facts }] of [before, after].entries()) {
      const object = join(place, String(index), 'types.so')
      await mkdir(join(place, String(index)))
      const structs = new Map(shared.map((name) => [name, facts.structs.get(name)!]))
      await compileTypes(tree, { ...facts, structs }, headers, object)
      objects.push(object)
    }
    const result = await runCommand(['abidiff', '--no-show-locs', ...objects])
    if (result.status === null || (result.status & didNotCompare) !== 0)
      throw new KvitestError('run abidiff', complaint(result))
    return result.stdout.toString().trim()
  } finally {
    await rm(place, { recursive: true, force: true })
  }
}
