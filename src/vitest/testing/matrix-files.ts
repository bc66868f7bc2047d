/** Matrices for tests, as the files of a project. */
import { resolve } from 'node:path'

const ROOT = resolve(import.meta.dirname, '../../..')

/** A matrix file with these fields; `sh` makes a tool of a script. */
export function matrix(name: string, fields: string): string {
  return `import { defineMatrix } from '${ROOT}/src/vitest/matrix.ts'
import { absentTool, tapTool } from '${ROOT}/src/matrix/testing/tap-tool.ts'
const sh = (name, ...lines) => tapTool(name, lines.join('\\n'))
defineMatrix({ name: '${name}', hosts: ['local'], ${fields} })
`
}

export function cells(ids: string[], points: Record<string, string[]>): string {
  return JSON.stringify({ cells: ids, points })
}

/** Of an `*.expect.yaml`. */
export const entry = (test: string) =>
  `- { test: '${test}', reason: known, link: "https://example.org/1", expires: 2999-12-31 }`
