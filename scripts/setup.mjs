// Brings a fresh clone to the point where `vitest run` works: npm dependencies, system packages, the native build
// and the default kernels. Plain JavaScript for Node 20 without dependencies, because it runs before there are any.
// Says one line for each thing it does, and nothing when there is nothing to do.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const kernels = ['debian:6.12-cloud', 'debian:6.1-cloud']

/** A failure whose one line says what to do. */
class SetupError extends Error {}

function say(line) {
  console.log(`setup: ${line}`)
}

/** Runs a command quietly; its output is shown only when it fails. */
function run(argv, options = {}) {
  const result = spawnSync(argv[0], argv.slice(1), {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...options,
  })
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}`.trimEnd()
  return { ok: result.status === 0, output, error: result.error }
}

function tail(output, lines = 40) {
  return output.split('\n').slice(-lines).join('\n')
}

function onPath(command) {
  for (const directory of (process.env.PATH ?? '').split(delimiter).concat('/usr/sbin', '/sbin')) {
    try {
      accessSync(join(directory || '.', command), constants.X_OK)
      return true
    } catch {
      // look further
    }
  }
  return false
}

/** An ELF program without PT_INTERP needs no loader and no libraries. */
function isStatic(path) {
  try {
    const head = Buffer.alloc(4096)
    const fd = openSync(path, 'r')
    readSync(fd, head, 0, head.length, 0)
    closeSync(fd)
    if (head.toString('latin1', 0, 4) !== '\x7fELF') return false
    const at = Number(head.readBigUInt64LE(32))
    const size = head.readUInt16LE(54)
    return !Array.from({ length: head.readUInt16LE(56) }, (_, i) =>
      head.readUInt32LE(at + i * size),
    ).includes(3)
  } catch {
    return false
  }
}

const needs = [
  ['qemu-system-x86', () => onPath('qemu-system-x86_64')],
  ['busybox-static', () => ['/bin/busybox', '/usr/bin/busybox'].some(isStatic)],
  ['cmake', () => onPath('cmake')],
  ['make', () => onPath('make')],
  ['g++', () => onPath('g++')],
  ['libc6-dev', () => existsSync('/usr/include/stdio.h')],
  ['doctest-dev', () => existsSync('/usr/include/doctest/doctest.h')],
  ['clang-format', () => onPath('clang-format')],
  ['lz4', () => onPath('lz4')],
  ['xz-utils', () => onPath('xz')],
  ['libxml2-utils', () => onPath('xmllint')],
  ['rsync', () => onPath('rsync')],
  ['squashfs-tools', () => onPath('mksquashfs')],
  ['e2fsprogs', () => onPath('debugfs')],
]

function missingPackages() {
  return needs.filter(([, isThere]) => !isThere()).map(([name]) => name)
}

function systemPackages() {
  const missing = missingPackages()
  if (missing.length === 0) return
  const install = `apt-get install -y --no-install-recommends ${missing.join(' ')}`
  if (!onPath('apt-get'))
    throw new SetupError(
      `these programs are missing and there is no apt-get here; install what Debian calls ${missing.join(' ')}`,
    )
  if (process.getuid() !== 0) throw new SetupError(`system packages are missing; run: sudo ${install}`)
  say(`installing ${missing.join(' ')}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }
  const update = () => {
    const result = run(['apt-get', 'update', '-q'], { env })
    if (!result.ok)
      throw new SetupError(
        `apt-get update failed; check the network and run npm run setup again\n${tail(result.output)}`,
      )
  }
  const areKnown = missing.every((name) => run(['apt-cache', 'show', name], { env }).ok)
  if (!areKnown) update()
  let result = run(install.split(' '), { env })
  if (!result.ok && areKnown) {
    // Package lists older than the archive name files that are gone.
    update()
    result = run(install.split(' '), { env })
  }
  if (!result.ok)
    throw new SetupError(`the packages could not be installed; try: ${install}\n${tail(result.output)}`)
  const still = missingPackages()
  if (still.length > 0)
    throw new SetupError(
      `installed ${still.join(' ')}, but what they should bring is not there; remove and install them by hand`,
    )
}

/** Whether node_modules holds exactly what package-lock.json says, by npm's own record of what it installed. */
function dependenciesInstalled() {
  try {
    const packages = (file) => JSON.parse(readFileSync(join(root, file), 'utf8')).packages
    const wanted = packages('package-lock.json')
    const installed = packages('node_modules/.package-lock.json')
    return Object.entries(wanted).every(
      ([path, entry]) =>
        path === '' || entry.optional || entry.devOptional || installed[path]?.version === entry.version,
    )
  } catch {
    return false
  }
}

function npmDependencies() {
  const node = join(root, 'node_modules/.bin/node')
  if (dependenciesInstalled() && existsSync(node)) return
  say('installing npm dependencies')
  const result = run(['npm', 'ci', '--no-audit', '--no-fund'])
  if (!result.ok)
    throw new SetupError(
      `npm ci failed; check the network and run npm run setup again\n${tail(result.output)}`,
    )
  if (!existsSync(node)) {
    throw new SetupError(
      'npm did not run the install script of the package node; run: npm install-scripts approve node && npm rebuild node',
    )
  }
}

/** npm links a package's own bin for its users only; here too `npx kvitest` is what a person types. */
function ownCommand() {
  const link = join(root, 'node_modules/.bin/kvitest')
  if (!existsSync(link)) symlinkSync('../../scripts/kvitest', link)
}

function sourceFiles(directory) {
  return readdirSync(join(root, directory), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && /\.(c|cc|h|S|ld|txt)$/.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort()
}

/** Everything that the native build is made from. */
function nativeHash() {
  const hash = createHash('sha256')
  const files = [
    ...sourceFiles('native'),
    ...sourceFiles('fixtures/guests'),
    ...sourceFiles('fixtures/programs'),
    ...sourceFiles('fixtures/shims'),
    join(root, 'CMakeLists.txt'),
    join(root, 'package-lock.json'),
  ]
  for (const file of files) hash.update(`${file}\0`).update(readFileSync(file))
  return hash.digest('hex')
}

function nativeBuild() {
  const stamp = join(root, 'build/.kvitest-setup')
  const hash = nativeHash()
  const products = ['kvitest.node', 'agent', 'native_tests'].map((name) => join(root, 'build/Release', name))
  const built = existsSync(stamp) ? readFileSync(stamp, 'utf8') : ''
  if (built === hash && products.every(existsSync)) return
  say('building the native part')
  const started = Date.now()
  const env = { ...process.env, PATH: `${join(root, 'node_modules/.bin')}${delimiter}${process.env.PATH}` }
  const result = run(['cmake-js', 'compile', '--out', 'build', '--parallel', '2'], { env })
  if (!result.ok) {
    throw new SetupError(
      `the native build failed; after a change of compiler or cmake delete build/ and try again\n${tail(result.output)}`,
    )
  }
  const absent = products.filter((path) => !existsSync(path))
  if (absent.length > 0)
    throw new SetupError(`the native build left no ${absent.join(' ')}; delete build/ and try again`)
  writeFileSync(stamp, hash)
  say(`built the native part in ${Math.round((Date.now() - started) / 1000)} s`)
}

function defaultKernels() {
  const result = spawnSync(join(root, 'node_modules/.bin/node'), ['src/image/prefetch.ts', ...kernels], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'pipe'],
    encoding: 'utf8',
  })
  if (result.error)
    throw new SetupError(`node_modules/.bin/node: ${result.error.message}; delete node_modules and try again`)
  const said = result.stderr.trim()
  if (result.status !== 0)
    throw new SetupError(
      said
        .split('\n')
        .at(-1)
        .replace(/^setup: /, ''),
    )
  if (said !== '') console.error(said)
}

/** Holds the set-up's lock for the life of this process: the holder is a child that ends with its stdin. */
async function lock() {
  mkdirSync(join(root, '.kvitest'), { recursive: true })
  const file = join(root, '.kvitest/setup.lock')
  const holder = spawn('flock', ['-x', file, 'sh', '-c', 'echo held; exec cat >/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const waiting = setTimeout(() => say('waiting for another set-up of this directory'), 500)
  await new Promise((resolve, reject) => {
    holder.once('error', (error) =>
      reject(new SetupError(`flock: ${error.message}; install the package util-linux`)),
    )
    holder.once('exit', (status) => reject(new SetupError(`${file}: cannot be locked (status ${status})`)))
    holder.stdout.once('data', resolve)
  }).finally(() => clearTimeout(waiting))
  return () => holder.stdin.end()
}

let unlock = () => {}
try {
  unlock = await lock()
  npmDependencies()
  ownCommand()
  systemPackages()
  nativeBuild()
  defaultKernels()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  console.error(`setup: ${error.message}`)
  process.exitCode = 1
} finally {
  unlock()
}
