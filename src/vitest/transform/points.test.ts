import { expect, test } from 'vitest'
import { findPoints, lineOf } from './points.ts'

test('calls with a literal name at the start of a line are declared points', () => {
  const { declared } = findPoints(
    ['#!/bin/sh', 'point "one" true', "\tis 'two $x' a b", '  skip "three" why', 'echo "point"'].join('\n'),
  )
  expect(declared).toEqual([
    { name: 'one', line: 2 },
    { name: 'two $x', line: 3 },
    { name: 'three', line: 4 },
  ])
})

test('names made at run time are not declared, but tell which line they come from', () => {
  const points = findPoints('is "cpu $i is up" 1 1\nis "cpu $(id) of many" 1 1\npass "x `y`"\n')
  expect(points.declared).toEqual([])
  expect(lineOf(points, 'cpu 3 is up')).toBe(1)
  expect(lineOf(points, 'x 7')).toBe(3)
  expect(lineOf(points, 'elsewhere')).toBeUndefined()
})

test('a comment declares a point of another program', () => {
  expect(findPoints('# point: suite > case 1 \n').declared).toEqual([{ name: 'suite > case 1', line: 1 }])
})

test('a name is declared once, at its first line', () => {
  expect(findPoints('pass "a"\npass "a"\n').declared).toEqual([{ name: 'a', line: 1 }])
})

test('here-documents and words in the middle of a line hold no points', () => {
  const text = [
    'cat <<EOF',
    'pass "in a document"',
    'EOF',
    'true && pass "behind"',
    "cat <<-'X'",
    '\tpass "tabs"',
    '\tX',
  ]
  expect(findPoints([...text, 'pass "after"'].join('\n')).declared).toEqual([{ name: 'after', line: 8 }])
})
