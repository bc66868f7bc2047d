/** What is left when vitest itself ends badly; nothing may be. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { TemporaryProject } from './testing/run-vitest.ts'

const SCRIPT = `#!/bin/sh
# point: first
cd "$(dirname "$0")"
echo $PPID >worker
echo $$ >script
echo "ok 1 - first"
echo "# the point above is settled by this line"
exec sleep 60
`

/** Runs, as opposed to: is gone, or waits for somebody to read its exit status. */
function runs(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)![0] !== 'Z'
  } catch {
    return false
  }
}

async function endsWithin(pid: number, milliseconds: number): Promise<boolean> {
  for (const end = performance.now() + milliseconds; performance.now() < end; await sleep(50)) {
    if (!runs(pid)) return true
  }
  return false
}

test.for(['SIGKILL', 'SIGTERM', 'SIGINT'] as const)(
  'a worker ends when its vitest gets %s',
  { timeout: 60_000 },
  async (signal) => {
    using project = new TemporaryProject({ 'slow.tap.sh': SCRIPT }, { test: { isolate: true } })
    const vitest = project.start(['run', '--reporter=verbose'])
    await vitest.saw('> first')
    const worker = Number(project.read('worker'))
    const ranBefore = runs(worker)
    vitest.kill(signal)
    await vitest.finished
    const ended = await endsWithin(worker, 10_000)
    // The stand-in's script is a process of its own; a guest would have gone with its worker.
    process.kill(Number(project.read('script')), 'SIGKILL')
    expect({ ranBefore, ended }).toEqual({ ranBefore: true, ended: true })
  },
)
