import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type Asker, type Beyond, WaitingLine, Waits } from './waiting-line.ts'

beforeEach(() => {
  vi.useFakeTimers()
})

afterEach(() => {
  vi.useRealTimers()
})

/** Room for one; tells how each request was granted. */
function lineOfOne() {
  const granted: string[] = []
  const line: WaitingLine<Asker> = new WaitingLine(
    ({ holder }: Asker, beyond: Beyond) => {
      if (beyond === undefined && line.granted.size > 0) return false
      granted.push(beyond === undefined ? holder : `${holder} by ${beyond}`)
      return true
    },
    new Waits(),
    1000,
  )
  return { line, granted }
}

test('a line that stands still grants its first beyond what there is, one at a time', () => {
  const { line, granted } = lineOfOne()
  // The first one keeps what it has for the others, in a way that nobody knows of.
  for (const holder of ['a', 'b', 'c']) line.ask({ holder })
  vi.advanceTimersByTime(999)
  expect(granted).toEqual(['a'])
  vi.advanceTimersByTime(1)
  expect(granted).toEqual(['a', 'b by stall'])
  vi.advanceTimersByTime(1000)
  expect(granted).toEqual(['a', 'b by stall', 'c by stall'])
  vi.advanceTimersByTime(10_000)
  expect(granted).toHaveLength(3)
})

test('a line that moves does not', () => {
  const { line, granted } = lineOfOne()
  const first = { holder: 'a' }
  for (const asker of [first, { holder: 'b' }, { holder: 'c' }]) line.ask(asker)
  vi.advanceTimersByTime(900)
  line.moved()
  vi.advanceTimersByTime(900)
  line.leave(first)
  vi.advanceTimersByTime(900)
  expect(granted).toEqual(['a', 'b'])
})

test('what a hook holds is kept for the tests of its file: one of them gets its own at once, the next when that is back', () => {
  const { line, granted } = lineOfOne()
  line.ask({ holder: 'hook' })
  const first = { holder: 'test a', within: 'hook' }
  line.ask(first)
  line.ask({ holder: 'test b', within: 'hook' })
  expect(granted).toEqual(['hook', 'test a by deadlock'])
  line.leave(first)
  expect(granted).toEqual(['hook', 'test a by deadlock', 'test b by deadlock'])
})

test('a hook of another file that holds something and does not wait will give it back', () => {
  const { line, granted } = lineOfOne()
  const other = { holder: 'other hook' }
  line.ask(other)
  line.ask({ holder: 'test a', within: 'hook' })
  expect(granted).toEqual(['other hook'])
  line.leave(other)
  expect(granted).toEqual(['other hook', 'test a'])
})
