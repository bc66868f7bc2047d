import { spawn } from 'node:child_process'
import { chmod, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

const root = join(import.meta.dirname, '../..')
let place: string

/** A clone with its dependencies, on a machine whose PATH has only what the test gives it. */
beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-setup-'))
  await mkdir(join(place, 'scripts'))
  await mkdir(join(place, 'bin'))
  await cp(join(root, 'scripts/setup.mjs'), join(place, 'scripts/setup.mjs'))
  await cp(join(root, 'package-lock.json'), join(place, 'package-lock.json'))
  await symlink(join(root, 'node_modules'), join(place, 'node_modules'))
  await mkdir(join(place, '.kvitest'))
  await chmod(place, 0o777)
  await chmod(join(place, '.kvitest'), 0o777)
  for (const command of ['sh', 'cat', 'flock'])
    await symlink(`/usr/bin/${command}`, join(place, 'bin', command))
})

afterEach(() => rm(place, { recursive: true }))

async function command(name: string, script: string): Promise<void> {
  await writeFile(join(place, 'bin', name), `#!/bin/sh\n${script}\n`)
  await chmod(join(place, 'bin', name), 0o755)
}

function setup(prefix: string[] = []): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const [program, ...rest] = [...prefix, process.execPath, join(place, 'scripts/setup.mjs')]
  const child = spawn(program!, rest, {
    env: { PATH: join(place, 'bin'), HOME: place },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said = { stdout: '', stderr: '' }
  child.stdout.on('data', (chunk) => {
    said.stdout += chunk
  })
  child.stderr.on('data', (chunk) => {
    said.stderr += chunk
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, ...said }))
  })
}

const nobody = ['/usr/bin/setpriv', '--reuid', '65534', '--clear-groups']

test.skipIf(process.getuid?.() !== 0)(
  'without root the one command to run is printed (needs root to drop it)',
  async () => {
    await command('apt-get', 'echo ran >&2; exit 1')

    const { status, stderr } = await setup(nobody)

    expect(stderr).toMatch(
      /^setup: system packages are missing; run: sudo apt-get install -y --no-install-recommends qemu-system-x86 .*cmake .*\n$/,
    )
    expect(status).toBe(1)
  },
)

test('without apt the packages are named', async () => {
  const { status, stderr } = await setup()

  expect(stderr).toMatch(
    /^setup: these programs are missing and there is no apt-get here; install what Debian calls qemu-system-x86 /,
  )
  expect(status).toBe(1)
})

test.skipIf(process.getuid?.() !== 0)(
  'an installation that fails shows why, and what was tried (needs root)',
  async () => {
    await command('apt-cache', 'exit 0')
    await command(
      'apt-get',
      'echo "$@" >> "$HOME/log"; echo "E: Unable to locate package" >&2; [ "$1" = update ]',
    )

    const { status, stderr } = await setup()

    const calls = (await readFile(join(place, 'log'), 'utf8')).trim().split('\n')
    expect(calls.map((call) => call.split(' ')[0])).toEqual(['install', 'update', 'install'])
    expect(stderr).toMatch(
      /^setup: the packages could not be installed; try: apt-get install .*\nE: Unable to locate package\n$/,
    )
    expect(status).toBe(1)
  },
)

test('dependencies that are not what the lock file says are installed', async () => {
  const lock = JSON.parse(await readFile(join(place, 'package-lock.json'), 'utf8'))
  lock.packages['node_modules/birpc'].version = '0.0.0'
  await writeFile(join(place, 'package-lock.json'), JSON.stringify(lock))
  await command('npm', 'echo "$@" > "$HOME/npm"; echo "npm error network" >&2; exit 1')

  const { status, stdout, stderr } = await setup()

  expect(await readFile(join(place, 'npm'), 'utf8')).toMatch(/^ci /)
  expect(stdout).toBe('setup: installing npm dependencies\n')
  expect(stderr).toBe(
    'setup: npm ci failed; check the network and run npm run setup again\nnpm error network\n',
  )
  expect(status).toBe(1)
})

test('two at once do not meet', async () => {
  const lock = JSON.parse(await readFile(join(place, 'package-lock.json'), 'utf8'))
  lock.packages['node_modules/birpc'].version = '0.0.0'
  await writeFile(join(place, 'package-lock.json'), JSON.stringify(lock))
  await symlink('/usr/bin/sleep', join(place, 'bin/sleep'))
  await command('npm', 'echo begin >> "$HOME/log"; sleep 0.3; echo end >> "$HOME/log"; exit 1')

  await Promise.all([setup(), setup()])

  expect(await readFile(join(place, 'log'), 'utf8')).toBe('begin\nend\nbegin\nend\n')
})
