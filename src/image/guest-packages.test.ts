import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { GuestPackages } from './guest-packages.ts'

/** Each test has an archive of its own, and asks in a process of its own, as resolve.test.ts does. */
const run = promisify(execFile)
let place: string

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-packages-'))
  for (const part of ['archive', 'state/lists/partial', 'apt-cache/archives/partial']) {
    await mkdir(join(place, part), { recursive: true })
  }
  await writeFile(join(place, 'sources.list'), `deb [trusted=yes] copy:${place}/archive ./\n`)
  await writeFile(join(place, 'status'), '')
  await writeFile(
    join(place, 'apt.conf'),
    `Dir::Etc::sourcelist "${place}/sources.list"; Dir::Etc::sourceparts "-"; Dir::State "${place}/state";
Dir::Cache "${place}/apt-cache"; Dir::State::status "${place}/status";\n`,
  )
  await publish('libdeep', { 'usr/lib/x86_64-linux-gnu/libdeep.so.1': 'library', 'usr/bin/helper': 'helper' })
  await publish(
    'tool',
    { 'bin/tool': 'tool', 'etc/tool.conf': 'level 1\n', 'usr/share/doc/tool/README': 'long' },
    'Depends: libdeep | elsewhere\nRecommends: luxury\n',
  )
  await publish('luxury', { 'usr/bin/luxury': 'luxury' })
  await run('apt-get', ['update', '-q', '-o', 'APT::Sandbox::User=root'], { env: environment() })
})

afterEach(() => rm(place, { recursive: true }))

async function publish(name: string, files: Record<string, string>, more = ''): Promise<void> {
  const tree = join(place, name)
  const control = `Package: ${name}\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: A\n${more}Description: x\n`
  for (const [path, text] of Object.entries({ ...files, 'DEBIAN/control': control })) {
    await mkdir(dirname(join(tree, path)), { recursive: true })
    await writeFile(join(tree, path), text)
  }
  if (name === 'tool') await symlink('tool', join(tree, 'bin/tool-too'))
  const deb = join(place, 'archive', `${name}.deb`)
  await run('dpkg-deb', ['--root-owner-group', '-Znone', '-b', tree, deb])
  const data = await readFile(deb)
  const sha256 = createHash('sha256').update(data).digest('hex')
  const stanza = `${control}Filename: ./${name}.deb\nSize: ${data.length}\nSHA256: ${sha256}\n\n`
  await writeFile(join(place, 'archive/Packages'), stanza, { flag: 'a' })
}

function environment(): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    APT_CONFIG: join(place, 'apt.conf'),
    XDG_CACHE_HOME: join(place, 'cache'),
    LC_ALL: 'C',
  }
}

interface Answer {
  packages?: GuestPackages
  error?: { message: string; code: string; hint: string }
}

const program = `
  import { guestPackages } from ${JSON.stringify(join(import.meta.dirname, 'guest-packages.ts'))}
  const answer = await guestPackages(process.argv.slice(1)).then(
    (packages) => ({ packages }),
    ({ message, code, hint }) => ({ error: { message, code, hint } }),
  )
  console.log(JSON.stringify(answer))
`

async function ask(...names: string[]): Promise<Answer> {
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', program, '--', ...names], {
    env: environment(),
  })
  return JSON.parse(stdout) as Answer
}

async function listed(image: string): Promise<string[]> {
  const { stdout } = await run('unsquashfs', ['-d', '', '-l', image])
  return stdout.split('\n').filter((line) => line.startsWith('/'))
}

test('a package comes with what it depends on, without what it recommends, and without documents', async () => {
  const { packages } = await ask('tool')
  expect(packages!.closure).toEqual(['libdeep=1.0-1', 'tool=1.0-1'])
  const files = await listed(packages!.image)
  expect(files).toEqual(
    expect.arrayContaining([
      '/usr/bin/tool',
      '/usr/bin/tool-too',
      '/usr/bin/helper',
      '/usr/lib/x86_64-linux-gnu/libdeep.so.1',
    ]),
  )
  expect(files.filter((path) => /luxury|README|^\/etc/.test(path))).toEqual([])
})

test('programs that were asked for go before those of busybox, others stand back', async () => {
  const { packages } = await ask('tool')
  const links = (entries: GuestPackages['entries']) =>
    entries.flatMap((entry) => (entry.type === 'symlink' ? [`${entry.path} -> ${entry.target}`] : []))
  expect(links(packages!.entries)).toEqual([
    'usr -> lib/kvitest/packages/usr',
    'lib64 -> usr/lib64',
    'lib/x86_64-linux-gnu -> ../usr/lib/x86_64-linux-gnu',
    'bin/tool -> ../usr/bin/tool',
    'bin/tool-too -> ../usr/bin/tool-too',
  ])
  expect(links(packages!.fallbacks)).toEqual(['bin/helper -> ../usr/bin/helper'])
  const configuration = packages!.entries.find((entry) => entry.path === 'etc/tool.conf')
  expect(await readFile((configuration as { source: string }).source, 'utf8')).toBe('level 1\n')
})

test('what is in the cache needs no archive, and the same packages give the same bytes', async () => {
  const first = (await ask('tool')).packages!.image
  const before = await readFile(first)
  await rm(join(place, 'archive'), { recursive: true })
  expect((await ask('tool')).packages!.image).toBe(first)
  const { error } = await ask('luxury')
  expect(error).toMatchObject({ code: 'ENETUNREACH' })
  expect(error!.message).toMatch(
    /^fetch packages for the guest: E: .*; connect this machine to a Debian archive/,
  )
  expect(before.subarray(0, 4).toString()).toBe('hsqs')
})

test('the image does not depend on when and where it was made', async () => {
  const bytes = async () => await readFile((await ask('tool')).packages!.image)
  const first = await bytes()
  await rm(join(place, 'cache'), { recursive: true })
  expect((await bytes()).equals(first)).toBe(true)
})

test.for([
  ['no-such-thing', 'no-such-thing: Debian has no such package', 'ENOENT'],
  ['elsewhere', 'elsewhere: Debian has no such package', 'ENOENT'],
  ['Tool', '"Tool" is no name of a package', 'EINVAL'],
  ['-o', '"-o" is no name of a package', 'EINVAL'],
  ['tool=9', '"tool=9" is no name of a package', 'EINVAL'],
] as const)('the package %s is refused in one line', async ([name, detail, code]) => {
  const { error } = await ask('luxury', name)
  expect(error).toMatchObject({ code })
  expect(error!.message.split(';')[0]).toBe(`find packages for the guest: ${detail}`)
  expect(error!.message).not.toContain('\n')
})
