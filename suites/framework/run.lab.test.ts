/** `kvitest run`, as a person uses it: real guests, real terminals. */
import { expect, test } from 'vitest'
import { startMarked, startOnTerminal } from './marked-process.ts'

const kvitest = 'scripts/kvitest'

test('a command keeps its exit status and its streams apart', async () => {
  const run = startMarked([kvitest, 'run', '--', 'sh', '-c', 'echo out; echo err >&2; exit 3'])
  const result = await run.finished
  expect(result.status).toBe(3)
  expect(result.stdout).toBe('out\n')
  expect(result.stderr.split('\n')).toContain('err')
  expect(await run.survivors()).toEqual([])
})

test('stdin of the shell reaches the command', async () => {
  const run = startMarked([kvitest, 'run', '--', 'wc', '-c'], { input: 'x'.repeat(300_000) })
  const result = await run.finished
  expect(result.stdout.trim()).toBe('300000')
  expect(result.status).toBe(0)
})

test('a guest has the CPUs, memory and kernel asked for', async () => {
  const run = startMarked([
    ...[kvitest, 'run', '--kernel', 'debian:6.1-cloud', '--cpus', '2', '--memory', '512M'],
    ...['--', 'sh', '-c', 'nproc; uname -r; grep MemTotal /proc/meminfo'],
  ])
  const result = await run.finished
  const [cpus, release, memory] = result.stdout.split('\n')
  expect(cpus).toBe('2')
  expect(release).toMatch(/^6\.1\./)
  const kilobytes = Number(/(\d+) kB/.exec(memory!)![1])
  expect(kilobytes).toBeGreaterThan(400_000)
  expect(kilobytes).toBeLessThan(512 * 1024)
})

test('a signal that ends the command becomes 128 + its number', async () => {
  const result = await startMarked([kvitest, 'run', '--', 'sh', '-c', 'kill -TERM $$']).finished
  expect(result.status).toBe(143)
})

test('a command over its time is killed and gives 124', async () => {
  const run = startMarked([kvitest, 'run', '--timeout', '1', '--', 'sleep', '100'])
  expect((await run.finished).status).toBe(124)
  expect(await run.survivors()).toEqual([])
})

test('a guest that powers off under the command is said in one line', async () => {
  const result = await startMarked([kvitest, 'run', '--', 'sh', '-c', 'poweroff -f; sleep 60']).finished
  expect(result.status).toBe(125)
  expect(result.stderr).toMatch(/^kvitest: kvitest run: the guest ended before the command: .*power/m)
})

test('an interactive shell has a terminal of the right size and Ctrl-] leaves it', async () => {
  const run = startOnTerminal(`stty rows 33 cols 99; ${kvitest} run`)
  await run.until(/Ctrl-\] leaves/)
  run.child.stdin!.write('stty size; tty; exit_word=done; echo $exit_word-here\r')
  await run.until(/done-here/)
  run.child.stdin!.write('\x1d')
  const result = await run.finished
  expect(result.stdout).toContain('33 99')
  expect(result.stdout).toMatch(/\/dev\/pts\/\d/)
  expect(result.status).toBe(0)
  expect(await run.survivors()).toEqual([])
})

test('Ctrl-C in the shell goes to the guest, not to us', async () => {
  const run = startOnTerminal(`${kvitest} run`)
  // What is typed before the prompt reaches a shell that handles no signal yet.
  await run.until(/\/ # /)
  // The two halves are joined by the shell: its output, not the echo of what was typed. Who says it has the terminal: a shell
  // that is interrupted while it hands it to `sleep` waits for that all the same.
  run.child.stdin!.write(`sh -c "echo run''ning; exec sleep 1000"\r`)
  await run.until(/running/)
  run.child.stdin!.write('\x03')
  // The terminal drops what was typed before the interrupt took effect.
  await run.until(/\^C\s+\/ # /)
  run.child.stdin!.write('echo status-$?; exit 7\r')
  const result = await run.finished
  expect(result.stdout).toContain('status-130')
  expect(result.status).toBe(7)
})

test('SIGINT during a command stops the guest and leaves nothing', async () => {
  const run = startMarked([kvitest, 'run', '--', 'sh', '-c', 'echo started; sleep 1000'], { ownLabs: true })
  await run.until(/started/)
  run.child.kill('SIGINT')
  expect((await run.finished).status).toBe(130)
  expect(await run.survivors()).toEqual([])
})

test('SIGKILL of kvitest leaves nothing', async () => {
  const run = startMarked([kvitest, 'run', '--', 'sh', '-c', 'echo started; sleep 1000'], { ownLabs: true })
  await run.until(/started/)
  run.child.kill('SIGKILL')
  await run.finished
  expect(await run.survivors()).toEqual([])
})

test.for([
  { name: 'an unknown option', args: ['run', '--cpu', '2'], status: 2, says: /--cpu/ },
  { name: 'zero CPUs', args: ['run', '--cpus', '0', '--', 'true'], status: 125, says: /--cpus 0/ },
  { name: 'no terminal and no command', args: ['run'], status: 125, says: /no command and no terminal/ },
  { name: 'an unknown command', args: ['frobnicate'], status: 2, says: /no command 'frobnicate'/ },
  {
    name: 'an unknown kernel',
    args: ['run', '--kernel', 'debian:5.99-cloud', '--', 'true'],
    status: 125,
    says: /debian:5\.99-cloud/,
  },
  {
    name: 'a kernel path that is not there',
    args: ['run', '--kernel', '/nonexistent/bzImage', '--', 'true'],
    status: 125,
    says: /\/nonexistent\/bzImage.*(ENOENT|no such file)/i,
  },
  {
    name: 'a file that is not a kernel',
    args: ['run', '--kernel', './package.json', '--', 'true'],
    status: 125,
    says: /package\.json.*not a kernel/,
  },
])('$name is one clear line', async ({ args, status, says }) => {
  const result = await startMarked([kvitest, ...args], { input: '' }).finished
  expect(result.status).toBe(status)
  expect(result.stdout).toBe('')
  expect(result.stderr.trim()).toMatch(says)
  expect(result.stderr.trim().split('\n')).toHaveLength(1)
})
