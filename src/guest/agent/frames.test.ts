import fc from 'fast-check'
import { expect, test } from 'vitest'
import { encodeFrame, FrameDecoder, PayloadReader, text, textList, u32, u64 } from './frames.ts'
import { framePayloadMax } from './protocol.ts'

test('any chunking of a stream gives the same frames', () => {
  const frame = fc.record({
    type: fc.integer({ min: 1, max: 65535 }),
    id: fc.integer({ min: 0, max: 0xffffffff }),
    payload: fc.uint8Array({ maxLength: 100 }),
  })
  fc.assert(
    fc.property(
      fc.array(frame),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      (frames, sizes) => {
        const stream = Buffer.concat(frames.map(({ type, id, payload }) => encodeFrame(type, id, payload)))
        const decoder = new FrameDecoder()
        const decoded = []
        for (let at = 0, turn = 0; at < stream.length; turn++) {
          const size = sizes[turn % sizes.length]!
          decoded.push(...decoder.push(stream.subarray(at, at + size)))
          at += size
        }
        expect(decoded).toEqual(frames.map((f) => ({ ...f, payload: Buffer.from(f.payload) })))
      },
    ),
  )
})

test('a length over the limit is refused before its bytes arrive', () => {
  const header = Buffer.alloc(12)
  header.writeUInt32LE(framePayloadMax + 1, 0)
  expect(() => [...new FrameDecoder().push(header)]).toThrowErrorMatchingInlineSnapshot(
    `[KvitestError: agent protocol: the agent's port carries bytes that are no frame; something in the guest wrote to the port, or the initramfs holds an agent of another version]`,
  )
})

test('a payload over the limit is refused before it is sent', () => {
  expect(() => encodeFrame(2, 1, Buffer.alloc(framePayloadMax + 1))).toThrowErrorMatchingInlineSnapshot(
    `[KvitestError: agent request: 65537 bytes of arguments do not fit a frame; pass at most 65536 bytes, the rest through stdin or a file]`,
  )
})

test('a NUL in an argument is refused', () => {
  expect(() => text('a\0b')).toThrowErrorMatchingInlineSnapshot(
    `[KvitestError: agent request: a NUL character in "a\\u0000b"; no argument, variable or path can hold one]`,
  )
})

test('fields are read back as written', () => {
  const reader = new PayloadReader(Buffer.concat([u32(7), u64(2 ** 40), text('é'), textList(['a', ''])]))
  expect([reader.u32(), reader.u64(), reader.text(), reader.textList()]).toEqual([7, 2 ** 40, 'é', ['a', '']])
})

test('a payload that ends inside a field throws', () => {
  expect(() => new PayloadReader(Buffer.from([1, 0])).u32()).toThrow(RangeError)
  expect(() => new PayloadReader(Buffer.from('no end')).text()).toThrow(RangeError)
  expect(() => new PayloadReader(u32(1000)).textList()).toThrow(RangeError)
})
