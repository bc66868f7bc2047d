/** Boots that end badly are no ground for a fork; each costs a boot, and some a second one. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { builtFile } from '../image/initramfs.ts'
import { GuestError } from './error.ts'
import { openHost } from './host.ts'
import type { Host } from './types.ts'

let host: Host
let folder: string

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-fork-'))
  host = await openHost()
})

afterAll(async () => {
  await host?.close()
  rmSync(folder, { recursive: true, force: true })
})

test('a guest that cannot boot fails as boot() does, each time', async () => {
  for (const _ of [1, 2]) {
    const error = await host.fork({ name: 'no-init', cmdline: 'rdinit=/none' }).catch((caught) => caught)
    expect(error).toBeInstanceOf(GuestError)
    expect(error.message).toMatch(/^boot no-init \(.*\): panic: /)
  }
})

test('a guest whose boot left a splat is never forked from', async () => {
  const init = join(folder, 'init')
  const splat = 'WARNING: CPU: 0 PID: 1 at kernel/fixture.c:1 boot_fixture+0x1/0x2'
  writeFileSync(
    init,
    `#!/bin/busybox sh\nmount -t devtmpfs dev /dev\necho "<4>${splat}" >/dev/kmsg\nexec /agent\n`,
    {
      mode: 0o755,
    },
  )
  const files = { '/init': init, '/agent': await builtFile('agent') }
  const error = await host.fork({ name: 'splat', loglevel: 7, files }).catch((caught) => caught)
  expect(error).toBeInstanceOf(GuestError)
  expect(error.end.verdict).toBe('oops')
})
