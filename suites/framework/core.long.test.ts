/** A guest's memory as a core: readelf, gdb and grep find in it what the guest had. */

import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Host, openHost } from 'kvitest'
import { afterAll, beforeAll, expect, test } from 'vitest'

let folder: string
let host: Host

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-core-'))
  host = await openHost()
})

afterAll(async () => {
  await host?.close()
  rmSync(folder, { recursive: true, force: true })
})

test('the memory of a guest is an ELF core: what the guest wrote is where it says', async () => {
  const guest = await host.fork({ name: 'core' })
  // A page of the kernel's own, whose physical address it tells.
  const { stdout } = await guest.exec(['cat', '/sys/kernel/vmcoreinfo'])
  const [address] = stdout.split(' ')
  const path = join(folder, 'memory.elf')
  await guest.saveCore(path)
  await guest.stop({ force: true })
  const notes = execFileSync('readelf', ['-Wn', path], { encoding: 'utf8' })
  expect(notes).toMatch(/CORE .*NT_PRSTATUS/)
  expect(notes).toContain('VMCOREINFO')
  const header = execFileSync('readelf', ['-Whl', path], { encoding: 'utf8' })
  expect(header).toContain('CORE (Core file)')
  const [, offset] = /LOAD +0x([0-9a-f]+) 0x0+ 0x0+ /.exec(header)!
  const bytes = Buffer.alloc(64)
  const file = openSync(path, 'r')
  readSync(file, bytes, 0, bytes.length, Number.parseInt(offset!, 16) + Number(address))
  closeSync(file)
  // The kernel's own note, as it keeps it for a crash dump.
  expect(bytes.toString('latin1')).toContain('VMCOREINFO')
  expect(bytes.toString('latin1')).toContain(`OSRELEASE=${guest.kernelRelease}`.slice(0, 40))
})

const noGdb = spawnSync('gdb', ['--version']).error ? ' (skipped: no gdb)' : undefined

test.skipIf(noGdb)(`gdb opens such a core${noGdb ?? ''}`, async () => {
  const guest = await host.fork({ name: 'gdb' })
  const { stdout } = await guest.exec(['cat', '/sys/kernel/vmcoreinfo'])
  const [address] = stdout.split(' ')
  const path = join(folder, 'gdb.elf')
  await guest.saveCore(path)
  await guest.stop({ force: true })
  // What stands there is an ELF note: its name follows three words.
  const name = `x/s ${Number(address) + 12}`
  const commands = ['info threads', 'p/x $rip', name].flatMap((command) => ['-ex', command])
  const shown = execFileSync('gdb', ['-batch', '-nx', '-c', path, ...commands], { encoding: 'utf8' })
  expect(shown).toMatch(/^\* 1 .*LWP/m)
  expect(shown).toMatch(/^\$1 = 0xffffffff[89a-f]/m)
  expect(shown).toContain('"VMCOREINFO"')
})

test('a guest that panicked left its memory, when it was told to keep it', async () => {
  const guest = await host.fork({ name: 'panic', core: true })
  await guest.exec(['sh', '-c', 'echo c >/proc/sysrq-trigger']).catch(() => {})
  expect(await guest.ended).toMatchObject({ verdict: 'panic' })
  const path = join(folder, 'panic.elf')
  await guest.saveCore(path)
  // The kernel's log buffer is in it.
  const found = execFileSync('grep', ['-c', '-a', 'sysrq triggered crash', path], { encoding: 'utf8' })
  expect(Number(found)).toBeGreaterThan(0)
})
