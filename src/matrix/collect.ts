/** The declarations of a matrix file, for whoever runs its cells without vitest. */
import { access } from 'node:fs/promises'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { KvitestError } from '../native/error.ts'
import type { MatrixDeclaration } from './declare.ts'

let collected: MatrixDeclaration[] | undefined

/** True when somebody collects: defineMatrix() then registers no tests. */
export function isCollected(declaration: MatrixDeclaration): boolean {
  collected?.push(declaration)
  return collected !== undefined
}

/** What a file declares. Rejects with a KvitestError when there is no such file, or no matrix in it. */
export async function collectMatrices(file: string): Promise<MatrixDeclaration[]> {
  const refuse = (detail: string, hint: string) =>
    new KvitestError(`read ${file}`, detail, { code: 'EINVAL', hint, infra: false })
  await access(file).catch(() => {
    throw refuse('there is no such file', 'give a *.matrix.ts')
  })
  const mine: MatrixDeclaration[] = []
  collected = mine
  try {
    await import(pathToFileURL(resolve(file)).href)
  } finally {
    collected = undefined
  }
  if (mine.length === 0) throw refuse('it declares no matrix', 'it wants defineMatrix() of kvitest/matrix')
  return mine
}
