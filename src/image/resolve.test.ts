import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ServedBuild } from './debian-kernel.ts'
import type { KernelInfo } from './kernel.ts'

/**
 * Each test has an archive of its own, of small packages, that apt reads as it reads Debian's; and asks in a
 * process of its own, as a person's command does.
 */
const run = promisify(execFile)
let place: string
let children: ChildProcess[]

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-apt-'))
  children = []
  for (const part of ['archive', 'state/lists/partial', 'apt-cache/archives/partial']) {
    await mkdir(join(place, part), { recursive: true })
  }
  await writeFile(join(place, 'status'), '')
  await writeFile(join(place, 'sources.list'), `deb [trusted=yes] copy:${place}/archive ./\n`)
  await writeFile(
    join(place, 'apt.conf'),
    [
      `Dir::Etc::sourcelist "${place}/sources.list";`,
      'Dir::Etc::sourceparts "-";',
      `Dir::State "${place}/state";`,
      `Dir::Cache "${place}/apt-cache";`,
      `Dir::State::status "${place}/status";`,
    ].join('\n'),
  )
})

afterEach(async () => {
  for (const child of children) child.kill('SIGKILL')
  await rm(place, { recursive: true })
})

/** The smallest file that is a bzImage to the boot protocol: a setup header, a version string, a payload. */
function bzImage(release: string): Buffer {
  const image = Buffer.alloc(4096)
  image.writeUInt8(1, 0x1f1)
  image.writeUInt16LE(0xaa55, 0x1fe)
  image.write('HdrS', 0x202)
  image.writeUInt16LE(0x20f, 0x206)
  image.writeUInt16LE(0x100, 0x20e)
  image.writeUInt32LE(0, 0x248)
  image.writeUInt32LE(64, 0x24c)
  image.write(`${release} (builder@debian) #1 SMP\0`, 0x300)
  return image
}

async function publish(abi: string, version: string, flavour = '-cloud'): Promise<string> {
  const name = `linux-image-${abi}${flavour}-amd64`
  const tree = join(place, name)
  const release = `${abi}${flavour}-amd64`
  const control = `Package: ${name}\nVersion: ${version}\nArchitecture: amd64\nMaintainer: A\nDescription: Linux\n`
  await mkdir(join(tree, 'DEBIAN'), { recursive: true })
  await mkdir(join(tree, 'boot'), { recursive: true })
  await mkdir(join(tree, 'lib/modules', release), { recursive: true })
  await writeFile(join(tree, 'DEBIAN/control'), control)
  await writeFile(join(tree, 'boot', `vmlinuz-${release}`), bzImage(release))
  await writeFile(join(tree, 'boot', `config-${release}`), 'CONFIG_KVM_GUEST=y\n')
  await writeFile(join(tree, 'lib/modules', release, 'modules.order'), '')
  const deb = join(place, 'archive', `${name}.deb`)
  await run('dpkg-deb', ['--root-owner-group', '-Znone', '-b', tree, deb])
  const data = await readFile(deb)
  const sha256 = createHash('sha256').update(data).digest('hex')
  const stanza = `${control}Filename: ./${name}.deb\nSize: ${data.length}\nSHA256: ${sha256}\n\n`
  await writeFile(join(place, 'archive/Packages'), stanza, { flag: 'a' })
  return deb
}

async function update(): Promise<void> {
  await run('apt-get', ['update', '-q', '-o', 'APT::Sandbox::User=root'], { env: environment() })
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
  kernel: KernelInfo | undefined
  error: { message: string; code: string; hint: string } | undefined
  notes: string[]
}

const program = `
  import { resolveKernel } from ${JSON.stringify(join(import.meta.dirname, 'resolve.ts'))}
  const notes = []
  const note = (line) => notes.push(line)
  const answer = await resolveKernel(process.argv[1], { note }).then(
    (kernel) => ({ kernel }),
    ({ message, code, hint, name }) => ({ error: { message, code, hint, name } }),
  )
  console.log(JSON.stringify({ ...answer, notes }))
`

async function ask(name: string, prefix: string[] = []): Promise<Answer> {
  const argv = [...prefix, process.execPath, '--input-type=module', '-e', program, '--', name]
  const { promise, resolve, reject } = Promise.withResolvers<Answer>()
  const child = spawn(argv[0]!, argv.slice(1), { env: environment(), stdio: ['ignore', 'pipe', 'pipe'] })
  children.push(child)
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  child.on('close', (status) =>
    status === 0 ? resolve(JSON.parse(stdout)) : reject(new Error(`${status}: ${stderr}`)),
  )
  return promise
}

/** servedBuilds() of a line, in a process of its own. */
async function served(line: string): Promise<ServedBuild[]> {
  const path = join(import.meta.dirname, 'debian-kernel.ts')
  const code = `import { servedBuilds } from ${JSON.stringify(path)}
    console.log(JSON.stringify(await servedBuilds([process.argv[1]])))`
  const argv = ['--input-type=module', '-e', code, '--', line]
  return JSON.parse((await run(process.execPath, argv, { env: environment() })).stdout)
}

describe('names', () => {
  beforeEach(async () => {
    await publish('6.1.0-9', '6.1.99-1')
    await publish('6.1.0-53', '6.1.187-1')
    await publish('6.12.117+deb12', '6.12.117-1~deb12u1')
    await update()
  })

  test('a moving name is the newest build by version, not by spelling', async () => {
    const { kernel, notes } = await ask('debian:6.1-cloud')

    expect(kernel).toMatchObject({
      name: 'debian:6.1-cloud',
      release: '6.1.0-53-cloud-amd64',
      packageVersion: '6.1.187-1',
      image: expect.stringMatching(/boot\/vmlinuz-6\.1\.0-53-cloud-amd64$/),
      modules: expect.stringMatching(/lib\/modules\/6\.1\.0-53-cloud-amd64$/),
      config: expect.stringMatching(/boot\/config-6\.1\.0-53-cloud-amd64$/),
      hash: createHash('sha256').update(bzImage('6.1.0-53-cloud-amd64')).digest('hex'),
    })
    expect(notes).toEqual(['fetching linux-image-6.1.0-53-cloud-amd64 (6.1.187-1)'])
  })

  test.for([
    ['debian:6.1.99-cloud', '6.1.0-9-cloud-amd64'],
    ['debian:6.1.0-9-cloud', '6.1.0-9-cloud-amd64'],
    ['debian:6.12.117-cloud', '6.12.117+deb12-cloud-amd64'],
    ['debian:6.12.117+deb12-cloud', '6.12.117+deb12-cloud-amd64'],
    ['debian:6.1-cloud@oldest', '6.1.0-9-cloud-amd64'],
    ['debian:6.1-cloud@newest', '6.1.0-53-cloud-amd64'],
  ] as const)('%s is %s', async ([name, release]) => {
    expect((await ask(name)).kernel?.release).toBe(release)
  })

  test.for(['debian:5.10-cloud', 'debian:6.1-rt', 'fedora'])(
    '%s is unknown, and what is served is listed',
    async (name) => {
      const { error } = await ask(name)

      expect(error).toMatchObject({
        code: 'ENOENT',
        message: expect.stringContaining(
          `find the kernel: ${name}: no such kernel; known: debian:6.12-cloud, debian:6.1-cloud, debian:6.12.117-cloud`,
        ),
      })
    },
  )

  test('the generic flavour is another kernel than the cloud flavour, of a line, a version or an ABI', async () => {
    await publish('6.1.0-9', '6.1.99-1', '')
    await publish('6.1.0-53', '6.1.187-1', '')
    await publish('6.1.0-53', '6.1.187-1', '-rt')
    await update()
    for (const name of ['debian:6.1-generic', 'debian:6.1.187-generic', 'debian:6.1.0-53-generic']) {
      const { kernel } = await ask(name)
      expect(kernel).toMatchObject({ name, release: '6.1.0-53-amd64', packageVersion: '6.1.187-1' })
    }
    // Beside each other in the cache.
    expect((await ask('debian:6.1-cloud')).kernel!.release).toBe('6.1.0-53-cloud-amd64')
    const { error } = await ask('debian:6.12-generic')
    expect(error).toMatchObject({ code: 'ENOENT' })
    expect(error!.message).toContain(
      'debian:6.12-generic: no such kernel; names look like debian:6.12-generic',
    )
  })

  test('apt, which a container tells to keep no index of its lists, keeps one here until they change', async () => {
    await writeFile(join(place, 'apt.conf'), 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n', {
      flag: 'a',
    })
    const index = join(place, 'cache/kvitest/apt/system/index.bin')
    const made = async () => (await stat(index)).ino

    await publish('6.1.0-53', '6.1.187-1')
    await update()
    await ask('debian:6.1-cloud')
    const first = await made()
    await served('6.1')
    const second = await made()
    await publish('6.1.0-54', '6.1.188-1')
    await update()
    await served('6.1')

    expect(second).toBe(first)
    expect(await made()).not.toBe(first)
  })

  test('a new build is used as soon as the package lists know it', async () => {
    await ask('debian:6.12-cloud')
    await publish('6.12.118+deb12', '6.12.118-1~deb12u1')
    await update()

    expect((await ask('debian:6.12-cloud')).kernel?.packageVersion).toBe('6.12.118-1~deb12u1')
  })

  test('the oldest build is the next one when it left the archive, whatever the package lists say', async () => {
    await rm(join(place, 'archive/linux-image-6.1.0-9-cloud-amd64.deb'))

    const { kernel, notes } = await ask('debian:6.1-cloud@oldest')

    expect(kernel?.packageVersion).toBe('6.1.187-1')
    expect(notes).toContain('6.1.99 has left the archive, looking at the build after it')
  })

  test('the two ends of a line are remembered apart', async () => {
    await ask('debian:6.1-cloud@oldest')
    await ask('debian:6.1-cloud')

    expect((await ask('debian:6.1-cloud@oldest')).kernel?.packageVersion).toBe('6.1.99-1')
    expect((await ask('debian:6.1-cloud')).kernel?.packageVersion).toBe('6.1.187-1')
  })

  test('an exact build that left the archive is named, in one line', async () => {
    await rm(join(place, 'archive/linux-image-6.1.0-9-cloud-amd64.deb'))

    const { error } = await ask('debian:6.1.99-cloud')

    expect(error?.code).toBe('ESTALE')
    expect(error?.message).toMatch(
      /^fetch linux-image-6\.1\.0-9-cloud-amd64: 6\.1\.99-1 has left the archive, [^\n]* apt-get update renews the lists/,
    )
  })

  test('an exact build that is not served is told with what is', async () => {
    const { error } = await ask('debian:6.1.150-cloud')

    expect(error?.message).toBe(
      'find the kernel: debian:6.1.150-cloud: the archive does not serve this build, and it is not in the cache; of 6.1 there is 6.1.99 to 6.1.187; kvitest kernel ls lists the builds; a build that was kept goes by its path',
    )
  })

  test('an end of one build is refused', async () => {
    expect((await ask('debian:6.1.99-cloud@oldest')).error?.message).toBe(
      'find the kernel: debian:6.1.99-cloud@oldest: @oldest of one exact build; write debian:6.1-cloud@oldest, or debian:6.1.99-cloud',
    )
  })

  test('all builds of a line are listed, those of one upstream version by their ABIs', async () => {
    await publish('6.1.0-54', '6.1.187-2')
    await update()

    const listed = await served('6.1')

    expect(listed.map(({ name, isOldest, isNewest }) => [name, isOldest, isNewest])).toEqual([
      ['debian:6.1.99-cloud', true, false],
      ['debian:6.1.0-53-cloud', false, false],
      ['debian:6.1.0-54-cloud', false, true],
    ])
    for (const { name, release } of listed) expect((await ask(name)).kernel?.release).toBe(release)
  })

  test('two processes at once fetch once', async () => {
    const [a, b] = await Promise.all([ask('debian:6.12-cloud'), ask('debian:6.12-cloud')])

    expect(a.kernel).toEqual(b.kernel)
    expect([...a.notes, ...b.notes]).toEqual([
      'fetching linux-image-6.12.117+deb12-cloud-amd64 (6.12.117-1~deb12u1)',
    ])
    expect(await readdir(join(place, 'cache/kvitest/kernels'))).toHaveLength(1)
    expect(await readdir(join(place, 'cache/kvitest/tmp'))).toEqual([])
  })
})

describe('an archive that does not answer', () => {
  test('what is in the cache is used, with a note', async () => {
    await publish('6.1.0-53', '6.1.187-1')
    await update()
    await ask('debian:6.1-cloud')
    await rm(join(place, 'archive'), { recursive: true })
    await rm(join(place, 'state/lists'), { recursive: true })

    const { kernel, notes } = await ask('debian:6.1-cloud')

    expect(kernel?.packageVersion).toBe('6.1.187-1')
    expect(notes).toEqual([
      expect.stringContaining('the archive does not answer, using 6.1.187-1 from the cache'),
    ])
  })

  test('an exact build in the cache needs no archive and no note', async () => {
    await publish('6.1.0-53', '6.1.187-1')
    await update()
    await ask('debian:6.1.187-cloud')
    await rm(join(place, 'archive'), { recursive: true })
    await rm(join(place, 'state/lists'), { recursive: true })

    expect(await ask('debian:6.1.187-cloud')).toMatchObject({
      kernel: { packageVersion: '6.1.187-1' },
      notes: [],
    })
  })

  test('a first run says what it needs', async () => {
    await rm(join(place, 'archive'), { recursive: true })

    const { error } = await ask('debian:6.1-cloud')

    expect(error).toMatchObject({
      code: 'ENETUNREACH',
      hint: expect.stringContaining('connect this machine to a Debian archive'),
    })
    expect(error?.message).not.toContain('\n')
  })

  test('package lists that the system lacks are fetched into the cache', async () => {
    await publish('6.1.0-53', '6.1.187-1')

    expect((await ask('debian:6.1-cloud')).kernel?.packageVersion).toBe('6.1.187-1')
    expect(await readdir(join(place, 'state/lists'))).toEqual(['partial'])
  })
})

describe('damage', () => {
  test('a package that is not what the archive signed is refused by apt', async () => {
    const deb = await publish('6.1.0-53', '6.1.187-1')
    await update()
    await truncate(deb, 2000)

    const { error } = await ask('debian:6.1-cloud')

    expect(error?.message).toMatch(/^fetch linux-image-6\.1\.0-53-cloud-amd64: /)
    expect(await readdir(join(place, 'cache/kvitest/kernels')).catch(() => [])).toEqual([])
  })

  test('a cache that cannot be written is named with what to do', async () => {
    await publish('6.1.0-53', '6.1.187-1')
    await update()
    await mkdir(join(place, 'cache'))
    // Root may write everywhere but to a file system that is read-only.
    const mounts = `mount -t tmpfs -o ro none ${place}/cache && exec "$@"`

    const { error } = await ask('debian:6.1-cloud', ['unshare', '-rm', 'sh', '-c', mounts, 'sh'])

    expect(error).toMatchObject({
      code: 'EROFS',
      hint: 'set XDG_CACHE_HOME to a directory that can be written',
    })
  })

  test('a cache that is full is named with what to do', async () => {
    await publish('6.1.0-53', '6.1.187-1')
    await update()
    await mkdir(join(place, 'cache'))
    const mounts = `mount -t tmpfs -o size=4k none ${place}/cache && exec "$@"`

    const { error } = await ask('debian:6.1-cloud', ['unshare', '-rm', 'sh', '-c', mounts, 'sh'])

    expect(error).toMatchObject({ code: 'ENOSPC', hint: expect.stringContaining('free some space there') })
  })
})

describe('paths', () => {
  test('an image beside its modules brings them', async () => {
    await publish('6.1.0-53', '6.1.187-1')
    const tree = join(place, 'linux-image-6.1.0-53-cloud-amd64')

    const { kernel } = await ask(join(tree, 'boot/vmlinuz-6.1.0-53-cloud-amd64'))

    expect(kernel?.modules).toBe(join(tree, 'lib/modules/6.1.0-53-cloud-amd64'))
    expect(kernel?.packageVersion).toBeUndefined()
  })

  test('a build tree is its own modules directory', async () => {
    const tree = join(place, 'linux')
    await mkdir(join(tree, 'arch/x86/boot'), { recursive: true })
    await writeFile(join(tree, 'arch/x86/boot/bzImage'), bzImage('6.17.0-rc3'))
    await writeFile(join(tree, '.config'), '')

    const { kernel } = await ask(tree)

    expect(kernel).toMatchObject({ release: '6.17.0-rc3', modules: tree, config: join(tree, '.config') })
  })

  test('a tree that was not built says so', async () => {
    await mkdir(join(place, 'linux'))

    expect((await ask(join(place, 'linux'))).error).toMatchObject({
      code: 'ENOEXEC',
      hint: expect.stringContaining('build the kernel first'),
    })
  })

  test('a path that is not there is named', async () => {
    expect((await ask('./nowhere/bzImage')).error?.message).toMatch(
      /^find the kernel: \.\/nowhere\/bzImage: no such file or directory; /,
    )
  })

  test('an image that may not be read is named', async () => {
    const image = join(place, 'bzImage')
    await copyFile('/etc/hostname', image)
    await chmod(image, 0)

    const { error } = await ask(image, ['setpriv', '--reuid', '65534', '--clear-groups'])

    expect(error?.code).toMatch(/EACCES|ENOENT/)
  })
})
