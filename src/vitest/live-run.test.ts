import { describe, expect, test } from 'vitest'
import type { RunEvent } from '../budget/messages.ts'
import { LiveRun } from './live-run.ts'

type State = Extract<RunEvent, { type: 'guest' }>['state']

function run(options?: { events: boolean }) {
  const lines: string[] = []
  const live = new LiveRun((line) => lines.push(line), options)
  const guest = (key: string, state: State, detail?: string) =>
    live.onRun({ type: 'guest', key, guest: `g${key}`, state, ...(detail ? { detail } : {}) })
  return { live, lines, guest }
}

describe('the line of what guests do', () => {
  test('counts them by state and says what the first one waits for', () => {
    const { live, guest } = run()
    expect(live.guestLine()).toBeUndefined()
    guest('1', 'starting')
    guest('1', 'running')
    guest('2', 'starting')
    guest('3', 'waiting', '2 CPUs')
    expect(live.guestLine()).toBe('1 running, 1 starting, 1 waiting for 2 CPUs')
    for (const key of ['1', '2', '3']) guest(key, 'ended')
    expect(live.guestLine()).toBeUndefined()
  })

  test('labs are named while they live', () => {
    const { live } = run()
    live.onLab({ name: 'lab:k#1', state: 'starting' })
    expect(live.labLine()).toBe('lab:k#1 starting')
    live.onLab({ name: 'lab:k#1', state: 'restored', detail: 'in 0.7 s' })
    expect(live.labLine()).toBe('lab:k#1')
    live.onLab({ name: 'lab:k#1', state: 'ended' })
    expect(live.labLine()).toBeUndefined()
  })
})

test('nothing is printed but consoles, unless events are asked for', () => {
  const { live, lines, guest } = run()
  guest('1', 'starting')
  live.onLab({ name: 'lab:k#1', state: 'starting' })
  live.onRun({ type: 'console', guest: 'g1', line: 'Linux version' })
  expect(lines).toEqual(['g1 | Linux version'])
})

test('each event is one line; what is told again after a takeover is not', () => {
  const { live, lines, guest } = run({ events: true })
  live.onLab({ name: 'lab:k#1', state: 'started', detail: 'in 6.0 s' })
  guest('1', 'waiting', '1 CPU')
  guest('1', 'waiting', '1 CPU')
  guest('1', 'starting')
  guest('1', 'ended', 'pass')
  expect(lines).toEqual([
    'kvitest  lab:k#1 started in 6.0 s',
    'kvitest  guest g1 waits for 1 CPU',
    'kvitest  guest g1 starts',
    'kvitest  guest g1 ended pass',
  ])
})

test('leases and waits are counted, each guest once', () => {
  const { live, guest } = run()
  guest('1', 'starting')
  guest('1', 'running')
  guest('1', 'starting')
  guest('2', 'waiting')
  guest('2', 'starting')
  expect(live.takeLeases()).toMatchObject({ count: 2, waited: 1 })
  expect(live.takeLeases()).toEqual({ count: 0, waited: 0, longestWait: 0, stalled: 0 })
})

test('what starts beyond the budget, or beyond the room of a lab, is counted and said', () => {
  const { live, lines, guest } = run({ events: true })
  guest('1', 'waiting', '1 CPU')
  const starting = { type: 'guest', key: '1', guest: 'g1', state: 'starting' } as const
  live.onRun({ ...starting, detail: 'beyond the budget: nothing moved any more', isStalled: true })
  live.onLab({ name: 'lab:k#1', state: 'crowded', detail: 'beyond its room: nothing moved any more' })
  expect(lines.slice(1)).toEqual([
    'kvitest  guest g1 starts beyond the budget: nothing moved any more',
    'kvitest  lab:k#1 crowded beyond its room: nothing moved any more',
  ])
  expect(live.takeLeases()).toMatchObject({ count: 1, stalled: 2 })
})
