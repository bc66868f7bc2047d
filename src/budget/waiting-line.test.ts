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
  // What the file's hook holds is kept for tests, which wait as holders of their own.
  for (const holder of ['file', 'test a', 'test b']) line.ask({ holder })
  vi.advanceTimersByTime(999)
  expect(granted).toEqual(['file'])
  vi.advanceTimersByTime(1)
  expect(granted).toEqual(['file', 'test a by stall'])
  vi.advanceTimersByTime(1000)
  expect(granted).toEqual(['file', 'test a by stall', 'test b by stall'])
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
