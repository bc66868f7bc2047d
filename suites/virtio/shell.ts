import type { Guest } from 'kvitest'
import { expect } from 'kvitest/test'

/** Milliseconds: what takes a guest a second takes its share of a busy machine that emulates a minute. */
const patience = 120_000

/** Runs a script of the guest's shell, which has to end well, and returns what it printed. */
export async function shell(guest: Guest, script: string): Promise<string> {
  const result = await guest.exec(['sh', '-c', script], { timeout: patience })
  expect(result).toExitWith(0)
  return result.stdout.trim()
}
