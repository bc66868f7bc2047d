import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { bootImage, hasPvhNote } from './boot-image.ts'
import { resolveKernel } from './resolve.ts'

test.for(['debian:6.12-cloud', 'debian:6.1-cloud'])('%s is entered by its PVH note', async (name) => {
  const kernel = await resolveKernel(name)
  const image = await bootImage(kernel)
  expect(image).toMatch(/vmlinux\/[0-9a-f]{64}\.elf$/)
  expect(await hasPvhNote(image)).toBe(true)
})

test('the bzImage itself is loaded when asked for', async () => {
  const kernel = await resolveKernel('debian:6.12-cloud')
  expect(await bootImage(kernel, 'bzimage')).toBe(kernel.image)
})

test('a vmlinux without the note is refused for PVH, in one line, and boots as its image otherwise', async () => {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-boot-image-'))
  try {
    const elf = await readFile(await bootImage(await resolveKernel('debian:6.12-cloud')))
    const note = elf.indexOf(Buffer.from('12000000' + '58656e00', 'hex'))
    elf.writeUInt32LE(0, note)
    const image = join(place, 'vmlinux')
    await writeFile(image, elf)
    const kernel = { name: 'without', release: '0', image, hash: '' }

    expect(await hasPvhNote(image)).toBe(false)
    expect(await bootImage(kernel)).toBe(image)
    await expect(bootImage(kernel, 'pvh')).rejects.toThrow(/no PVH entry; build it with CONFIG_PVH=y/)
  } finally {
    await rm(place, { recursive: true })
  }
})
