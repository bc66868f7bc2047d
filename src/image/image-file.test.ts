import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { probeImage } from './image-file.ts'
import { resolveKernel } from './resolve.ts'
import { extractVmlinux } from './vmlinux.ts'

let directory: string
let image: Buffer
let release: string
let vmlinux: string

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kvitest-image-'))
  const kernel = await resolveKernel('debian:6.12-cloud')
  image = await readFile(kernel.image)
  release = kernel.release
  vmlinux = await extractVmlinux(kernel.image)
}, 120_000)

afterAll(() => rm(directory, { recursive: true }))

async function fileOf(data: Uint8Array): Promise<string> {
  const path = join(directory, 'image')
  await writeFile(path, data)
  return path
}

test('a bzImage names its own release', async () => {
  const probe = await probeImage(await fileOf(image))
  expect(probe).toMatchObject({ format: 'bzimage', release })
})

test('the vmlinux of a bzImage names the same release', async () => {
  expect(await probeImage(vmlinux)).toEqual({ format: 'elf', release })
})

test('a bzImage without its last byte is truncated', async () => {
  const probe = await probeImage(await fileOf(image))
  const end = probe.payloadOffset! + probe.payloadLength!
  await expect(probeImage(await fileOf(image.subarray(0, end - 1)))).rejects.toThrow(
    /truncated: \d+ bytes of at least \d+/,
  )
})

test('a bzImage cut in its header is truncated', async () => {
  await expect(probeImage(await fileOf(image.subarray(0, 0x220)))).rejects.toThrow('truncated')
})

test('a vmlinux cut in a segment is truncated', async () => {
  const data = await readFile(vmlinux)
  await expect(probeImage(await fileOf(data.subarray(0, 1 << 20)))).rejects.toThrow('truncated')
})

test('an ELF program is no kernel', async () => {
  await expect(probeImage(process.execPath)).rejects.toThrow('an ELF file, but no Linux kernel')
})

test.for([
  ['an empty file', Buffer.alloc(0), 'an empty file'],
  ['text', Buffer.from('#!/bin/sh\n'), 'not a kernel image'],
  ['a boot sector', bootSector(), 'not a kernel image'],
  ['a 32-bit ELF', elf32(), 'not an x86-64 ELF file'],
] as const)('%s is no kernel', async ([, data, message]) => {
  await expect(probeImage(await fileOf(data))).rejects.toMatchObject({
    code: 'ENOEXEC',
    message: expect.stringContaining(message),
    hint: expect.stringContaining('give a bzImage'),
  })
})

test('a directory is no kernel image', async () => {
  await expect(probeImage(directory)).rejects.toThrow('not a regular file')
})

test('a missing file is named', async () => {
  await expect(probeImage('/nowhere/vmlinuz')).rejects.toMatchObject({ code: 'ENOENT' })
})

function bootSector(): Buffer {
  const sector = Buffer.alloc(1024)
  sector.writeUInt16LE(0xaa55, 0x1fe)
  return sector
}

function elf32(): Buffer {
  const header = Buffer.alloc(64)
  header.write('\x7fELF\x01\x01\x01', 'latin1')
  return header
}
