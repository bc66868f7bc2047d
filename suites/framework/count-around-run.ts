/**
 * A program: runs vitest in this very process twice, first a short script, then what it is told to, and prints what the
 * process holds after each as one line of JSON. What the second run has left behind is the difference.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { startVitest } from 'vitest/node'

const [config, warmUp, ...filters] = process.argv.slice(2)

export interface Held {
  /** Descriptors by kind: `socket`, `pipe`, `anon_inode:[eventfd]`, `file`. */
  descriptors: Record<string, number>
  threads: number
  /** Mappings of guests, of memfds and of KVM. */
  mappings: number
  children: number
}

function held(): Held {
  const descriptors: Record<string, number> = {}
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      if (target.startsWith('/proc/')) continue // the listing itself
      const kind = target.startsWith('/') ? 'file' : target.replace(/:\[\d+\]$/, '')
      descriptors[kind] = (descriptors[kind] ?? 0) + 1
    } catch {
      // The descriptor of the listing itself is closed by now.
    }
  }
  const threads = readdirSync('/proc/self/task')
  const children = threads.flatMap((task) =>
    readFileSync(`/proc/self/task/${task}/children`, 'latin1').split(' ').filter(Boolean),
  )
  const maps = readFileSync('/proc/self/maps', 'latin1').split('\n')
  return {
    descriptors,
    threads: threads.length,
    mappings: maps.filter((line) => /kvitest:|memfd:|kvm-vcpu|\/dev\/kvm/.test(line)).length,
    children: children.length,
  }
}

async function run(what: string[]): Promise<number> {
  const vitest = await startVitest('test', what, { config: config!, run: true, watch: false })
  const failed = vitest.state.getCountOfFailedTests()
  await vitest.close()
  process.exitCode = 0
  return failed
}

await run([warmUp!])
await sleep(1000)
const before = held()
const failed = await run(filters)
// As long as anything may take to go.
const deadline = performance.now() + 5000
while (performance.now() < deadline && JSON.stringify(held()) !== JSON.stringify(before)) await sleep(100)
console.log(`held ${JSON.stringify({ failed, before, after: held() })}`)
process.exit(0)
