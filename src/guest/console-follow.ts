import { isWorker, tellRun } from '../budget/process-budget.ts'
import { globMatches } from '../verdict/expectations.ts'
import type { Guest } from './types.ts'

/**
 * Shows the console of the guests that KVITEST_CONSOLE names (a glob), line by line with the guest's name before it, on
 * stderr. A worker hands whole lines to its vitest, which prints them: two guests never share a line.
 */
export function followConsole({ name, console }: Pick<Guest, 'name' | 'console'>): void {
  const { KVITEST_CONSOLE: wanted } = process.env
  if (!wanted || !globMatches(wanted, name)) return
  console.onLine((line) => {
    if (isWorker()) tellRun({ type: 'console', guest: name, line })
    else process.stderr.write(`${name} | ${line}\n`)
  })
}
