import fc from 'fast-check'
import { expect, test } from 'vitest'
import { encodeFrame, FrameReader, maxFrame } from './frame.ts'

test('any cutting of the stream gives the same frames', () => {
  const frames = fc.array(fc.tuple(fc.nat(0xffffffff), fc.uint8Array({ maxLength: 300 })), { maxLength: 12 })
  const cuts = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1 })
  fc.assert(
    fc.property(frames, cuts, (sent, sizes) => {
      const stream = Buffer.concat(sent.map(([tag, payload]) => encodeFrame(tag, payload)))
      const got: [number, number[]][] = []
      const reader = new FrameReader((tag, payload) => got.push([tag, [...payload]]))

      for (let at = 0, n = 0; at < stream.length; n++) {
        const size = sizes[n % sizes.length]!
        reader.write(stream.subarray(at, at + size))
        at += size
      }

      expect(got).toEqual(sent.map(([tag, payload]) => [tag, [...payload]]))
    }),
  )
})

test('a frame over the limit ends the stream', () => {
  const header = Buffer.alloc(8)
  header.writeUInt32LE(maxFrame + 1)
  expect(() => new FrameReader(() => {}).write(header)).toThrow(
    `a frame of ${maxFrame + 1} bytes, over the limit`,
  )
})

test('a message over the limit is not sent', () => {
  expect(() => encodeFrame(1, new Uint8Array(maxFrame + 1))).toThrow('over the limit')
})

test('a payload is its own copy', () => {
  const chunk = encodeFrame(1, Buffer.from('abc'))
  const got: Buffer[] = []
  new FrameReader((_, payload) => got.push(payload)).write(chunk)

  chunk.fill(0)

  expect(got.map(String)).toEqual(['abc'])
})
