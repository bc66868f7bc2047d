import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  explainCapacity,
  limited,
  limitsOf,
  measureCapacity,
  measureCpus,
  memoryAvailable,
} from './capacity.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-capacity-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const gibibyte = 2 ** 30

/** A tree as /proc and /sys/fs/cgroup show it. */
function places(files: Record<string, string>) {
  const all = { 'proc/meminfo': `MemTotal: 1 kB\nMemAvailable:   ${(8 * gibibyte) / 1024} kB\n`, ...files }
  for (const [name, text] of Object.entries(all)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), text)
  }
  return { proc: join(folder, 'proc'), cgroup: join(folder, 'cgroup') }
}

test('this machine has CPUs and memory', () => {
  expect(measureCpus()).toBeGreaterThanOrEqual(1)
  expect(memoryAvailable()).toBeGreaterThan(2 ** 20)
})

test('without control groups it is what the machine has', () => {
  const here = places({})
  expect(measureCpus(here)).toBe(availableParallelism())
  expect(memoryAvailable(here)).toBe(8 * gibibyte)
})

test('the tightest quota on the way to the root counts', () => {
  const here = places({
    'proc/self/cgroup': '0::/a/b\n',
    'cgroup/a/cpu.max': '100000 100000\n',
    'cgroup/a/b/cpu.max': 'max 100000\n',
    'cgroup/a/memory.max': `${2 * gibibyte}\n`,
    'cgroup/a/memory.current': `${1.5 * gibibyte}\n`,
    'cgroup/a/memory.stat': `anon 5\ninactive_file ${gibibyte}\n`,
    'cgroup/a/b/memory.max': 'max\n',
  })
  expect(measureCpus(here)).toBe(1)
  expect(memoryAvailable(here)).toBe(1.5 * gibibyte)
  expect(measureCapacity(here)).toEqual({ cpus: 16, memory: 1.125 * gibibyte, starts: 4 })
})

test('control groups of version 1 count too', () => {
  const here = places({
    'proc/self/cgroup': '5:cpu,cpuacct:/x\n4:memory:/y\n',
    'cgroup/cpu/x/cpu.cfs_quota_us': '50000\n',
    'cgroup/cpu/x/cpu.cfs_period_us': '100000\n',
    'cgroup/memory/y/memory.limit_in_bytes': `${gibibyte}\n`,
    'cgroup/memory/y/memory.usage_in_bytes': '0\n',
  })
  expect(measureCpus(here)).toBe(1)
  expect(memoryAvailable(here)).toBe(gibibyte)
})

test('what people ask for counts instead, of several the least', () => {
  const measured = { cpus: 8, memory: 8, starts: 2 }
  expect(limited(measured, [{}, { cpus: 16 }, { cpus: 12, memory: 4 }])).toEqual({
    cpus: 12,
    memory: 4,
    starts: 2,
  })
  expect(limitsOf({ KVITEST_BUDGET_CPUS: '3', KVITEST_BUDGET_MEMORY: '1G' })).toEqual({
    cpus: 3,
    memory: gibibyte,
  })
  expect(limited(measured, [{ starts: 5 }, { starts: 4 }]).starts).toBe(4)
  expect(limitsOf({ KVITEST_BUDGET_STARTS: '4' })).toEqual({ starts: 4 })
  expect(() => limitsOf({ KVITEST_BUDGET_CPUS: 'many' })).toThrow('many: not a positive whole number')
})

test('each figure says what it was measured from', () => {
  const here = places({
    'proc/self/cgroup': '0::/a\n',
    'cgroup/a/cpu.max': '100000 100000\n',
    'cgroup/a/memory.max': `${2 * gibibyte}\n`,
    'cgroup/a/memory.current': `${gibibyte}\n`,
  })
  const group = join(folder, 'cgroup/a')
  const one = `1 CPU by cpu.max of ${group}`
  expect(explainCapacity(here, {})).toEqual({
    cpus: 16,
    memory: (gibibyte * 3) / 4,
    starts: 4,
    from: {
      cpus: `16 for each of ${one}`,
      memory: `three quarters of 1 GiB by memory.max of ${group}`,
      starts: `4 for each of ${one}`,
    },
  })
  expect(explainCapacity(here, { KVITEST_BUDGET_CPUS: '3' })).toMatchObject({
    cpus: 3,
    from: { cpus: 'KVITEST_BUDGET_CPUS' },
  })
})
