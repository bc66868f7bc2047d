import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { resolveKernel } from './resolve.ts'
import { extractVmlinux } from './vmlinux.ts'

const run = promisify(execFile)
let place: string

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-vmlinux-'))
  vi.stubEnv('XDG_CACHE_HOME', place)
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(place, { recursive: true })
})

/** A bzImage around a payload, as the kernel build makes it; `size` is appended but for gzip, which has it. */
async function bzImage(payload: Buffer, size?: number): Promise<string> {
  const tail = Buffer.alloc(size === undefined ? 0 : 4)
  if (size !== undefined) tail.writeUInt32LE(size)
  const header = Buffer.alloc(1024)
  header.writeUInt8(1, 0x1f1)
  header.writeUInt16LE(0xaa55, 0x1fe)
  header.write('HdrS', 0x202)
  header.writeUInt16LE(0x20f, 0x206)
  header.writeUInt16LE(0x100, 0x20e)
  header.writeUInt32LE(payload.length + tail.length, 0x24c)
  header.write('6.0.0-test (me)\0', 0x300)
  const path = join(place, 'bzImage')
  await writeFile(path, Buffer.concat([header, payload, tail]))
  return path
}

/** What stands for vmlinux. */
function content(): Buffer {
  return Buffer.concat([Buffer.from('\x7fELF', 'latin1'), Buffer.alloc(100_000, place)])
}

async function compressed(command: string): Promise<Buffer> {
  await writeFile(join(place, 'vmlinux'), content())
  await run('sh', ['-c', command], { cwd: place })
  return readFile(join(place, 'out'))
}

test('ZSTD, as in Debian 6.12', async () => {
  const image = await bzImage(zstdCompressSync(content()), content().length)
  expect(await readFile(await extractVmlinux(image))).toEqual(content())
})

test('LZ4 in its legacy frame, as in Debian 6.1', async () => {
  const image = await bzImage(await compressed('lz4 -l -q vmlinux out'), content().length)
  expect(await readFile(await extractVmlinux(image))).toEqual(content())
})

test('XZ', async () => {
  const image = await bzImage(await compressed('xz --check=crc32 -c vmlinux > out'), content().length)
  expect(await readFile(await extractVmlinux(image))).toEqual(content())
})

test('GZIP, whose own trailer is the size', async () => {
  expect(await readFile(await extractVmlinux(await bzImage(gzipSync(content()))))).toEqual(content())
})

test('a payload of the wrong length is damage', async () => {
  const image = await bzImage(zstdCompressSync(content()), content().length + 1)
  await expect(extractVmlinux(image)).rejects.toMatchObject({
    code: 'EILSEQ',
    message: expect.stringContaining('were promised'),
  })
})

test('a damaged payload names its compression', async () => {
  const payload = zstdCompressSync(content())
  payload.fill(0xff, 8, 24)
  await expect(extractVmlinux(await bzImage(payload, content().length))).rejects.toThrow(
    'broken ZSTD payload',
  )
})

test('an unknown compression says what to do', async () => {
  const image = await bzImage(Buffer.from('LZO?LZO?'), 8)
  await expect(extractVmlinux(image)).rejects.toMatchObject({
    code: 'ENOTSUP',
    hint: expect.stringContaining('boot the bzImage'),
  })
})

test('a vmlinux is its own answer', async () => {
  vi.unstubAllEnvs()
  const { image } = await resolveKernel('debian:6.12-cloud')
  const vmlinux = await extractVmlinux(image)
  expect(await extractVmlinux(vmlinux)).toBe(vmlinux)
})
