import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { buildModule } from './module-build.ts'
import { loadOrder } from './modules.ts'
import { resolveKernel } from './resolve.ts'

const provoke = resolve(import.meta.dirname, '../../fixtures/modules/provoke.c')

async function source(text: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kvitest-module-'))
  onTestFinished(() => rm(directory, { recursive: true }))
  const path = join(directory, 'mine.c')
  await writeFile(path, text)
  return path
}

describe.for(['debian:6.1-cloud', 'debian:6.12-cloud'])('for %s', (name) => {
  test('C source becomes a module of that very kernel, loaded after what it depends on', async () => {
    const kernel = await resolveKernel(name)
    const order = await loadOrder(kernel, ['virtio_rng', provoke])
    const mine = order.at(-1)!
    expect(mine).toMatchObject({ name: 'provoke', path: 'updates/provoke.ko' })
    expect(mine.data.includes(`vermagic=${kernel.release} `)).toBe(true)
  }, 300_000)
})

test('a module is built once', async () => {
  const kernel = await resolveKernel('debian:6.12-cloud')
  expect(await buildModule(kernel, provoke)).toBe(await buildModule(kernel, provoke))
}, 300_000)

test("the compiler's first error is in the line", async () => {
  const kernel = await resolveKernel('debian:6.12-cloud')
  const path = await source('#include <linux/module.h>\nint broken(void) { return nothing; }\n')
  await expect(buildModule(kernel, path)).rejects.toMatchObject({
    message: expect.stringMatching(/mine\.c for 6\.12\..*mine\.c:2:.*error: .nothing. undeclared/),
    infra: false,
  })
}, 300_000)

test('a file that is not there, and a kernel without headers', async () => {
  const kernel = await resolveKernel('debian:6.12-cloud')
  await expect(buildModule(kernel, '/nowhere/mine.c')).rejects.toMatchObject({ code: 'ENOENT' })
  const { packageVersion: _, modules: __, ...bare } = kernel
  const path = await source('#include <linux/module.h>\nMODULE_LICENSE("GPL"); // bare\n')
  await expect(buildModule({ ...bare, hash: 'other' }, path)).rejects.toMatchObject({
    message: expect.stringMatching(/no build tree and no headers of it/),
  })
})
