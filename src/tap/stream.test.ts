import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MAX_LINE } from './lines.ts'
import { MAX_OUTPUT } from './output.ts'
import { MAX_POINTS, TapStream } from './stream.ts'
import type { Point, TapSummary } from './types.ts'

function parse(...chunks: (string | Uint8Array)[]): TapSummary {
  const stream = new TapStream()
  for (const chunk of chunks) stream.write(chunk)
  return stream.end()
}

function brief(points: Point[]): string[] {
  return points.map((point) => `${point.id} ${[...point.path, point.name].join(' > ')}: ${point.result}`)
}

describe('points', () => {
  test('carry result, reason and name without escapes', () => {
    const summary = parse(
      'TAP version 14\n1..6\nok 1 - a \\# b \\\\ c\nnot ok 2 bad\nok 3 - s # SKIP no device\n',
      'not ok 4 - t # TODO later\nok 5 - u # TODO\nok\n',
    )
    expect(brief(summary.points)).toEqual([
      '1 a # b \\ c: pass',
      '2 bad: fail',
      '3 s: skip',
      '4 t: todo',
      '5 u: todo-pass',
      '6 : pass',
    ])
    expect(summary.points[2]?.reason).toBe('no device')
    expect(summary.points[3]?.reason).toBe('later')
    expect(summary).toMatchObject({ plan: 6, problems: [] })
  })

  test('carry the parsed YAML block below them', () => {
    const summary = parse('not ok 1 - a\n  ---\n  expected: 1\n  actual: [2, x]\n  ...\n1..1\n')
    expect(summary.points[0]?.diagnostic).toEqual({ expected: 1, actual: [2, 'x'] })
  })

  test('carry a YAML block that does not parse as text', () => {
    const summary = parse('not ok 1 - a\n  ---\n  {{{ no: [yaml\n  ...\n1..1\n')
    expect(summary.points[0]?.diagnostic).toBe('{{{ no: [yaml')
  })

  test('carry the comments and other lines since the previous point', () => {
    const diagnostics: string[] = []
    const stream = new TapStream({ onDiagnostic: (line) => diagnostics.push(line) })
    stream.write('hello\n# one\nok 1 - a\ntwo\nok 2 - b\n1..2\nthree\n')
    const summary = stream.end()
    expect(summary.points.map((point) => point.output)).toEqual([['hello', '# one'], ['two']])
    expect(diagnostics).toEqual(['hello', '# one', 'two', 'three'])
  })

  test('settle as soon as the next line is no YAML', () => {
    const seen: string[] = []
    const stream = new TapStream({ onPoint: (point) => seen.push(point.name) })
    stream.write('ok 1 - a\n# text\n')
    expect(seen).toEqual(['a'])
  })

  test('settle when the stream is quiet, and still get their YAML block afterwards', () => {
    const seen: string[] = []
    const stream = new TapStream({ onPoint: (point) => seen.push(point.name) })
    stream.write('ok 1 - a\n')
    stream.flush()
    expect(seen).toEqual(['a'])
    stream.write('  ---\n  k: v\n  ...\n1..1\n')
    expect(stream.end().points).toMatchObject([{ name: 'a', diagnostic: { k: 'v' } }])
  })

  test('settle by themselves when nothing follows for a while', async () => {
    const seen = await new Promise<string>((settle) => {
      const stream = new TapStream({ onPoint: (point) => settle(point.name) })
      stream.write('ok 1 - a\n')
    })
    expect(seen).toBe('a')
  })

  test('that fail wait for their YAML block though the stream is quiet', () => {
    const seen: unknown[] = []
    const stream = new TapStream({ onPoint: (point) => seen.push(point.diagnostic) })
    stream.write('not ok 1 - a\n')
    stream.flush()
    expect(seen).toEqual([])
    stream.write('  ---\n  k: v\n  ...\n1..1\n')
    expect(seen).toEqual([{ k: 'v' }])
  })
})

describe('subtests', () => {
  test('of TAP 14 name the path of their points', () => {
    const summary = parse(
      '1..2\n# Subtest: outer\n    # Subtest: inner\n        ok 1 - x\n        1..1\n    ok 1 - inner\n    1..1\nok 1 - outer\n',
      'ok 2 - braces {\n    not ok 1 - y\n    1..1\n}\n',
    )
    expect(brief(summary.points)).toEqual([
      '1 outer > inner > x: pass',
      '1 outer > inner: pass',
      '1 outer: pass',
      '1 braces > y: fail',
      '2 braces: pass',
    ])
    expect(summary.problems).toEqual([])
  })

  test('of KTAP with two blanks are named by the point that follows them', () => {
    const summary = parse(
      'KTAP version 1\n1..1\n  KTAP version 1\n  1..2\n    KTAP version 1\n    1..1\n    # test_1: initializing\n',
      '    ok 1 test_1\n  ok 1 ex_1\n  ok 2 ex_2 # SKIP nope\nok 1 main\n',
    )
    expect(brief(summary.points)).toEqual([
      '1 main > ex_1 > test_1: pass',
      '1 main > ex_1: pass',
      '2 main > ex_2: skip',
      '1 main: pass',
    ])
    expect(summary.problems).toEqual([])
  })

  test('of KUnit with four blanks carry their own name', () => {
    const summary = parse(
      'KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: suite\n    1..2\n    ok 1 x\n',
      '    not ok 2 y # TIMEOUT 45 seconds\n# suite: pass:1\nnot ok 1 suite\n',
    )
    expect(brief(summary.points)).toEqual(['1 suite > x: pass', '2 suite > y: fail', '1 suite: fail'])
    expect(summary.points[1]?.reason).toBe('TIMEOUT 45 seconds')
  })

  test('that break their plan are named in the problem', () => {
    const summary = parse('1..1\n# Subtest: s\n    1..2\n    ok 1 - x\nok 1 - s\n')
    expect(summary.problems).toEqual(['in subtest "s": planned 2 points, saw 1'])
  })

  test('nested without end do not exhaust the stack', () => {
    const deep = Array.from({ length: 5000 }, (_, level) => `${'    '.repeat(level)}1..1\n`).join('')
    const summary = parse(deep)
    expect(summary.plan).toBe(1)
  })
})

describe('problems', () => {
  test.each([
    ['an empty stream', '', ['no plan and no points']],
    ['no plan', 'ok 1\n', ["no plan: the script ended without '1..N' (done_testing)"]],
    ['too few points', '1..3\nok 1\n', ['planned 3 points, saw 1']],
    ['too many points', '1..1\nok 1\nok 2\n', ['planned 1 point, saw 2']],
    ['duplicate ids', '1..2\nok 1\nok 1\n', ['point 1 came more than once']],
    [
      'ids out of order',
      '1..3\nok 1\nok 3\nok 2\n',
      ['point 3 came where 2 was due', 'point 2 came where 4 was due'],
    ],
    ['points after a bail-out', '1..3\nBail out! dead\nok 1\nok 2\n', ['2 points after the bail-out']],
    ['points after a late plan', 'ok 1\n1..1\nok 2\n', ['a TAP line where none may stand: "ok 2"']],
    ['a second plan', '1..1\n1..1\nok 1\n', ['a TAP line where none may stand: "1..1"']],
    ['points although all is skipped', '1..0 # SKIP x\nok 1\n', ['a TAP line where none may stand: "ok 1"']],
    ['an open YAML block', '1..1\nok 1\n  ---\n  a: 1\n', ["a YAML block without its end '...'"]],
  ])('name %s', (_, text, problems) => {
    expect(parse(text).problems.slice(0, problems.length)).toEqual(problems)
  })

  test('name binary garbage, and the points around it stay', () => {
    const summary = parse('1..2\nok 1 - a\n', new Uint8Array([0, 255, 254, 10, 195, 40, 10]), 'ok 2 - b\n')
    expect(brief(summary.points)).toEqual(['1 a: pass', '2 b: pass'])
    expect(summary.problems).toEqual([
      'line 3: binary garbage (NUL bytes or invalid UTF-8)',
      '2 lines with binary garbage in all',
    ])
  })

  test('name a line of 10 MB, which is cut, and the points around it stay', () => {
    const chunk = new Uint8Array(64 * 1024).fill(0x78)
    const chunks = Array.from({ length: 160 }, () => chunk)
    const summary = parse('1..2\nok 1 - a\n', ...chunks, '\nok 2 - b\n')
    expect(brief(summary.points)).toEqual(['1 a: pass', '2 b: pass'])
    expect(summary.problems).toEqual([`line 3: ${160 * 64 * 1024} bytes in one line, cut to ${MAX_LINE}`])
  })

  test('name a point whose line is 2 MB long, and its name is bounded', () => {
    const summary = parse(`1..1\nok 1 - ${'y'.repeat(2 * MAX_LINE)}\n`)
    expect(summary.points[0]?.name.length).toBeLessThan(9000)
    expect(summary.problems).toHaveLength(2)
  })
})

test('a skip of everything keeps its reason', () => {
  expect(parse('1..0 # SKIP no device\n')).toEqual({
    points: [],
    plan: 0,
    skipAll: 'no device',
    problems: [],
  })
})

test.for(['1..0\n', '1..0 # SKIP\n', '1..0 # nothing to do\n'])('%j is no skip with a reason', (text) => {
  expect(parse(text)).toMatchObject({
    plan: 0,
    skipAll: 'no reason given',
    problems: ["a plan of 0 points without a reason: want '1..0 # SKIP reason'"],
  })
})

test('a bail-out keeps its reason and asks for no plan', () => {
  expect(parse('ok 1\nBail out! the device is gone\n')).toMatchObject({
    bailOut: 'the device is gone',
    problems: [],
    plan: undefined,
  })
})

test('carriage returns and line separators inside a line end nothing', () => {
  const summary = parse('1..2\r\n10%\r20%\rdone\u2028x\nok 1 - a\r\nok 2 - b\r\n')
  expect(brief(summary.points)).toEqual(['1 a: pass', '2 b: pass'])
})

test('output between two points is bounded, head and tail kept', () => {
  const noise = Array.from({ length: 50_000 }, (_, line) => `line ${line}\n`).join('')
  const summary = parse('1..1\n', noise, 'ok 1 - a\n')
  const output = summary.points[0]!.output
  expect(output.join('\n').length).toBeLessThan(MAX_OUTPUT + 100)
  expect(output[0]).toBe('line 0')
  expect(output.at(-1)).toBe('line 49999')
  expect(output).toContainEqual(expect.stringMatching(/^\.\.\. \d+ lines left out \.\.\.$/))
})

test('the number of points kept is bounded', () => {
  const stream = new TapStream()
  for (let id = 1; id <= MAX_POINTS + 5; id++) stream.write(`ok ${id}\n`)
  const summary = stream.end()
  expect(summary.points).toHaveLength(MAX_POINTS)
  expect(summary.problems).toContain(`more than ${MAX_POINTS} points: 5 dropped`)
})

test('a megabyte of short lines written byte by byte takes no quadratic time', () => {
  const parse = (lines: number): number => {
    const bytes = new TextEncoder().encode('# x\n'.repeat(lines))
    const stream = new TapStream()
    const start = performance.now()
    for (let at = 0; at < bytes.length; at++) stream.write(bytes.subarray(at, at + 1))
    stream.end()
    return performance.now() - start
  }
  parse(8 * 1024)
  // Eight times as much: quadratic growth would show as 64.
  expect(parse(256 * 1024) / parse(32 * 1024)).toBeLessThan(32)
})

describe('for any stream', () => {
  const line = fc.oneof(
    fc.constantFrom(
      'TAP version 14',
      'KTAP version 1',
      '  KTAP version 1',
      '1..2',
      '    1..1',
      '  1..1',
      '1..0 # SKIP x',
      'ok',
      'ok 1 - a',
      'not ok 2 - b # TODO x',
      'ok 3 - c {',
      '{',
      '}',
      '    ok 1 - inner',
      '  not ok 1 inner # SKIP',
      '# Subtest: s',
      '    # Subtest: t',
      '  ---',
      '  a: [1, é]',
      '  ...',
      'Bail out! no',
      'text',
      '# comment',
      '',
    ),
    fc.string({ unit: 'binary', maxLength: 30 }),
  )
  const stable = (summary: TapSummary) => ({
    ...summary,
    points: summary.points.map(({ settledAt: _, ...point }) => point),
  })

  test('any cutting into chunks gives the same summary', () => {
    fc.assert(
      fc.property(
        fc.array(line, { maxLength: 30 }),
        fc.array(fc.nat({ max: 40 }), { minLength: 1, maxLength: 20 }),
        (lines, sizes) => {
          const bytes = new TextEncoder().encode(lines.join('\n'))
          const whole = stable(parse(bytes))
          const stream = new TapStream()
          for (let at = 0, turn = 0; at < bytes.length; turn++) {
            const size = 1 + sizes[turn % sizes.length]!
            stream.write(bytes.subarray(at, at + size))
            at += size
          }
          expect(stable(stream.end())).toEqual(whole)
        },
      ),
      { numRuns: 500 },
    )
  })

  test('every point is announced once, in the order of the summary', () => {
    fc.assert(
      fc.property(fc.array(line, { maxLength: 40 }), (lines) => {
        const live: Point[] = []
        const stream = new TapStream({ onPoint: (point) => live.push(point) })
        stream.write(lines.join('\n'))
        expect(stream.end().points).toEqual(live)
      }),
      { numRuns: 500 },
    )
  })
})
