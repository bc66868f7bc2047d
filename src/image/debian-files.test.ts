import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { runCommand } from './command.ts'
import { extractMembers, fetchFiles, servedPackages } from './debian-files.ts'

vi.setConfig({ testTimeout: 600_000 })

let place: string
let deb: string

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-files-'))
  const root = join(place, 'root')
  for (const folder of ['DEBIAN', 'usr/a/deep', 'usr/b']) await mkdir(join(root, folder), { recursive: true })
  const control = 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: n\n'
  await writeFile(join(root, 'DEBIAN/control'), control)
  await writeFile(join(root, 'usr/a/deep/wanted'), 'wanted\n')
  await writeFile(join(root, 'usr/b/other'), Buffer.alloc(1 << 20, 'x'))
  await chmod(root, 0o755)
  deb = join(place, 'p.deb')
  const built = await runCommand(['dpkg-deb', '-Znone', '-b', root, deb])
  expect(built.status, built.stderr).toBe(0)
})

afterAll(async () => {
  await rm(place, { recursive: true })
})

test('only the members that were asked for come out', async () => {
  await extractMembers(deb, ['./usr/a/deep', './usr/nothing'], join(place, 'out'))

  const files = await readdir(join(place, 'out'), { recursive: true })
  expect(files.sort()).toEqual(['usr', 'usr/a', 'usr/a/deep', 'usr/a/deep/wanted'])
  expect(await readFile(join(place, 'out/usr/a/deep/wanted'), 'utf8')).toBe('wanted\n')
})

test('a star is one part of a path', async () => {
  await extractMembers(deb, ['./usr/*/wanted', './usr/*/other'], join(place, 'star'))

  const files = await readdir(join(place, 'star'), { recursive: true })
  expect(files.sort()).toEqual(['usr', 'usr/b', 'usr/b/other'])
})

test('a .deb that was cut short is refused, even when a member is not in it either', async () => {
  const short = join(place, 'short.deb')
  const bytes = await readFile(deb)
  // In the middle of a file, and after a whole one.
  for (const length of [100_000, bytes.indexOf('wanted\n', bytes.indexOf('deep/wanted') + 512) + 512]) {
    await writeFile(short, bytes.subarray(0, length))

    await expect(
      extractMembers(short, ['./usr/*/deep', './usr/nothing'], join(place, `short${length}`)),
    ).rejects.toThrow(/^read the package: .*short\.deb: [^\n]*; give a complete \.deb file$/)
  }
})

test('a file that cannot be written is a failure, even when a member is not there either', async () => {
  const target = join(place, 'taken')
  // Where tar has to make a folder there is a file.
  await mkdir(join(target, 'usr'), { recursive: true })
  await writeFile(join(target, 'usr/a'), '')

  await expect(extractMembers(deb, ['./usr/a/deep/wanted', './usr/nothing'], target)).rejects.toThrow(
    /^read the package: .*p\.deb: [^\n]*usr\/a\/deep/,
  )
})

test('a package without what was asked for is named, and nothing is kept', async () => {
  const wanted = { packages: [{ package: 'linux-headers-cloud-amd64' }], members: ['./nothing/here'] }

  for (const _ of [1, 2]) {
    await expect(fetchFiles('test-nothing', wanted)).rejects.toThrow(
      'read the package: linux-headers-cloud-amd64: has none of ./nothing/here',
    )
  }
})

test('served packages have every version that the archive has', async () => {
  const served = await servedPackages(/^linux-headers-6\.1\.0-\d+-common$/)

  expect(served.length).toBeGreaterThan(0)
  for (const one of served) expect(one.version).toMatch(/^6\.1\.\d+-/)
})
