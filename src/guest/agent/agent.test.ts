/** The real agent binary on this machine, over a UNIX socket in place of the virtio-serial port. */
import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { collect, LocalAgent } from '../testing/local-agent.ts'
import { encodeFrame, FrameDecoder, text, textList, u16, u32 } from './frames.ts'
import { execFlags, protocolVersion, toAgent, toHost } from './protocol.ts'

let agent: LocalAgent

beforeEach(() => {
  agent = LocalAgent.start()
})

afterEach(async () => {
  await agent[Symbol.asyncDispose]()
})

const sh = (script: string) => ['/bin/sh', '-c', script]

/** Live processes that were started with this marker in their arguments. */
const running = async (marker: string): Promise<string[]> => {
  const { client } = await agent.conversation()
  const { stdout } = await collect(client, sh(`pgrep -f '${marker.replace(/^./, '[$&]')}' || true`))
  return stdout.split('\n').filter((line) => line !== '')
}

const children = (pid: number) => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()

async function until(condition: () => boolean, milliseconds: number): Promise<void> {
  const end = performance.now() + milliseconds
  while (!condition() && performance.now() < end) await sleep(5)
}

test('the greeting carries the kernel release', async () => {
  const { client } = await agent.conversation()
  const hello = await client.ready
  expect(hello.kernelRelease).toBe(readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim())
  expect(hello.warnings).toEqual([])
})

test('stdout, stderr and the exit status come back apart', async () => {
  const { client } = await agent.conversation()
  const result = await collect(client, sh('echo out; echo err >&2; exit 7'))
  expect(result).toEqual({
    status: 7,
    signal: null,
    timedOut: false,
    stdout: 'out\n',
    stderr: 'err\n',
    duration: expect.any(Number),
  })
})

test('merged stderr arrives in order with stdout', async () => {
  const { client } = await agent.conversation()
  const result = await collect(client, sh('echo 1; echo 2 >&2; echo 3'), { merge: true })
  expect(result).toMatchObject({ stdout: '1\n2\n3\n', stderr: '' })
})

test('the message to a fork is answered; outside a guest only the random pool is told', async () => {
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')
  const { client } = await agent.conversation()
  const told = client.forked({ entropy: randomBytes(64), bootId: randomBytes(16), clock: 1n })
  // Who may credit entropy is the machine's own affair: without the right, the error names the operation.
  const error = await told.catch((caught) => caught.message)
  expect([undefined, 'fork: RNDADDENTROPY in the guest: EPERM']).toContain(error)
  expect(readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')).toBe(bootId)
  expect(await collect(client, ['true'])).toMatchObject({ status: 0 })
})

test('a message to a fork that is cut short ends the conversation', async () => {
  const { client, closed } = await agent.conversation()
  const told = client.forked({ entropy: randomBytes(63), bootId: randomBytes(16) })
  await expect(told).rejects.toMatchObject({ code: 'EPIPE' })
  await closed
})

test('a process that a signal ends reports the signal', async () => {
  const { client } = await agent.conversation()
  const result = await collect(client, sh('kill -SEGV $$'))
  expect(result).toMatchObject({ status: null, signal: 'SIGSEGV', timedOut: false })
})

test('the duration is the time the process took', async () => {
  const { client } = await agent.conversation()
  const started = performance.now()
  const { duration } = await collect(client, ['sleep', '0.3'])
  expect(duration).toBeGreaterThan(299)
  expect(duration).toBeLessThan(performance.now() - started)
})

test('environment and working directory reach the process', async () => {
  const { client } = await agent.conversation()
  const result = await collect(client, sh('echo "$COLOUR in $PWD"'), {
    env: { COLOUR: 'a=b c' },
    cwd: '/usr',
  })
  expect(result.stdout).toBe('a=b c in /usr\n')
})

test('the process leads a session of its own and starts with default signals', async () => {
  const { client } = await agent.conversation()
  const result = await collect(
    client,
    sh('cut -d " " -f 1,5,6 /proc/$$/stat; grep -E "SigBlk|SigIgn" /proc/self/status'),
  )
  const [ids, ...signals] = result.stdout.trim().split('\n')
  expect(new Set(ids!.split(' ')).size).toBe(1)
  expect(signals).toEqual(['SigBlk:\t0000000000000000', 'SigIgn:\t0000000000000000'])
})

test('no descriptor of the agent leaks into a process', async () => {
  const { client } = await agent.conversation()
  const busy = await client.spawn(['sleep', '5'], { stdin: true })
  const result = await collect(client, ['ls', '/proc/self/fd'])
  await busy.kill('SIGKILL')
  // What a shell let slip into this very process, every child has.
  const { stdout } = spawnSync('ls', ['/proc/self/fd'], { encoding: 'utf8' })
  expect(result.stdout).toBe(stdout)
})

test.for([
  {
    argv: ['/no/such/program'],
    options: {},
    code: 'ENOENT',
    message: 'exec /no/such/program in the guest: ENOENT',
  },
  {
    argv: ['no-such-command'],
    options: {},
    code: 'ENOENT',
    message: 'exec no-such-command in the guest: ENOENT',
  },
  { argv: ['/etc/passwd'], options: {}, code: 'EACCES', message: 'exec /etc/passwd in the guest: EACCES' },
  {
    argv: ['true'],
    options: { cwd: '/no/dir' },
    code: 'ENOENT',
    message: 'chdir /no/dir in the guest: ENOENT',
  },
  { argv: [], options: {}, code: 'EINVAL', message: 'exec (no command) in the guest: EINVAL' },
])('a command that cannot start rejects: $message', async ({ argv, options, code, message }) => {
  const { client } = await agent.conversation()
  const error = await client.spawn(argv, options).catch((caught) => caught)
  expect(error).toMatchObject({ code, infra: false })
  expect(error.message).toContain(message)
  expect(await collect(client, ['true'])).toMatchObject({ status: 0 })
})

test('a time-out ends the command and all it started, also what ignores SIGTERM or has its own group', async () => {
  const { client } = await agent.conversation()
  const marker = `987.${process.pid}`
  const script = `set -m; trap '' TERM; sleep ${marker}1 & set +m; sleep ${marker}2 & while :; do sleep 0.05; done`
  const started = performance.now()
  const result = await collect(client, sh(script), { timeout: 300 })
  expect(result).toMatchObject({ status: null, signal: 'SIGKILL', timedOut: true })
  expect(performance.now() - started).toBeGreaterThan(750)
  const counted = await collect(client, sh(`pgrep -fc 'sleep [9]87.${process.pid}'`))
  expect(counted.stdout).toBe('0\n')
})

test('a command that obeys SIGTERM on a time-out is not waited for longer', async () => {
  const { client } = await agent.conversation()
  const ends: string[] = []
  const stubborn = collect(client, sh("trap '' TERM; while :; do sleep 0.05; done"), { timeout: 100 })
  const obedient = collect(client, ['sleep', '100'], { timeout: 100 })
  stubborn.then(() => ends.push('stubborn'))
  obedient.then(() => ends.push('obedient'))
  expect(await obedient).toMatchObject({ status: null, signal: 'SIGTERM', timedOut: true })
  expect(await stubborn).toMatchObject({ status: null, signal: 'SIGKILL', timedOut: true })
  expect(ends).toEqual(['obedient', 'stubborn'])
})

test('output said while dying of a time-out is kept', async () => {
  const { client } = await agent.conversation()
  const script = "trap 'echo cleaning up; exit 3' TERM; while :; do sleep 0.02; done"
  const result = await collect(client, sh(script), { timeout: 200 })
  expect(result).toMatchObject({ status: null, timedOut: true, stdout: 'cleaning up\n' })
})

test('10 MB of output arrive whole and in order at a host that reads slowly', async () => {
  const { client, socket } = await agent.conversation()
  const pauses = setInterval(() => {
    socket.pause()
    setTimeout(() => socket.resume(), 8)
  }, 12)
  const result = await collect(client, sh('seq 1 1400000'))
  clearInterval(pauses)
  const expected = `${Array.from({ length: 1400000 }, (_, index) => index + 1).join('\n')}\n`
  expect(result.status).toBe(0)
  expect(result.stdout.length).toBe(expected.length)
  expect(result.stdout === expected).toBe(true)
})

test('a host that does not read holds the script back', async () => {
  const { client, socket } = await agent.conversation()
  const process = await client.spawn(sh('yes | head -c 20000000; echo done >&2'))
  const pid = process.pid
  socket.pause()
  await sleep(700)
  const waiting = children(pid)
  socket.resume()
  const exit = await process.exited
  expect(waiting).not.toBe('')
  expect(exit).toMatchObject({ status: 0 })
})

test('a flood does not starve another command', async () => {
  const { client } = await agent.conversation()
  const flood = await client.spawn(['yes'])
  const result = await collect(client, sh('echo 1; echo 2 >&2'))
  await flood.kill('SIGKILL')
  expect(result).toMatchObject({ status: 0, stdout: '1\n', stderr: '2\n' })
  expect(await flood.exited).toMatchObject({ signal: 'SIGKILL' })
})

test('many commands run at once', async () => {
  const { client } = await agent.conversation()
  const results = await Promise.all(
    Array.from({ length: 60 }, (_, index) => collect(client, sh(`sleep 0.1; echo ${index}; exit ${index}`))),
  )
  expect(results.map(({ status, stdout }) => [status, stdout])).toEqual(
    Array.from({ length: 60 }, (_, index) => [index, `${index}\n`]),
  )
})

test('more commands than the agent can hold are refused, not lost', async () => {
  const { client } = await agent.conversation()
  const started = await Promise.all(Array.from({ length: 128 }, () => client.spawn(['sleep', '60'])))
  await expect(client.spawn(['true'])).rejects.toMatchObject({ code: 'EAGAIN' })
  await Promise.all(started.map((process) => process.kill('SIGKILL')))
  await Promise.all(started.map((process) => process.exited))
  expect(await collect(client, ['true'])).toMatchObject({ status: 0 })
})

test('3 MiB of stdin pass through with flow control', async () => {
  const { client } = await agent.conversation()
  const data = Buffer.alloc(3 * 1024 * 1024, 'kvitest stdin ')
  const chunks: Uint8Array[] = []
  const process = await client.spawn(sh('sleep 0.2; sha256sum'), {
    stdin: true,
    onStdout: (data) => chunks.push(data),
  })
  await process.writeStdin(data)
  await process.closeStdin()
  await process.exited
  expect(Buffer.concat(chunks).toString()).toContain(createHash('sha256').update(data).digest('hex'))
})

test('a process that never reads stops the writer at the credit', async () => {
  const { client } = await agent.conversation()
  const process = await client.spawn(['sleep', '60'], { stdin: true })
  let written = false
  const writing = process.writeStdin(Buffer.alloc(1024 * 1024)).then(() => {
    written = true
  })
  writing.catch(() => {})
  await sleep(300)
  expect(written).toBe(false)
  await process.kill('SIGKILL')
  await expect(writing).rejects.toMatchObject({ code: 'EPIPE' })
})

test('a process that closes its stdin does not block the writer', async () => {
  const { client } = await agent.conversation()
  const process = await client.spawn(sh('exec <&-; sleep 0.5'), { stdin: true })
  await process.writeStdin(Buffer.alloc(1024 * 1024))
  expect(await process.exited).toMatchObject({ status: 0 })
})

test('without stdin the process reads end of file', async () => {
  const { client } = await agent.conversation()
  expect(await collect(client, ['cat'])).toMatchObject({ status: 0, stdout: '' })
})

test('orphans are reaped', async () => {
  const { client } = await agent.conversation()
  await collect(client, sh('for i in 1 2 3 4 5; do (sleep 0.1 &) ; done'))
  await until(() => children(agent.child.pid!) === '', 3000)
  expect(children(agent.child.pid!)).toBe('')
})

test('a daemon that keeps the pipe open does not hold the result back, and lives on', async () => {
  const { client } = await agent.conversation()
  const started = performance.now()
  const result = await collect(client, sh('echo before; sleep 60 & echo $!'))
  const elapsed = performance.now() - started
  const daemon = result.stdout.split('\n')[1]!
  const alive = await collect(client, ['kill', '-KILL', daemon])
  expect(result).toMatchObject({ status: 0, stdout: `before\n${daemon}\n` })
  expect(elapsed).toBeGreaterThan(190)
  expect(alive.status).toBe(0)
})

test('a daemon that floods the pipe does not hold the result back', async () => {
  const { client } = await agent.conversation()
  const process = await client.spawn(sh('yes flood & echo $! >&2'))
  expect(await process.exited).toMatchObject({ status: 0 })
})

test('a pty has the size asked for, follows a resize, and echoes what is typed', async () => {
  const { client } = await agent.conversation()
  let seen = ''
  const script = "trap 'stty size; exit 0' WINCH; tty; stty size; while :; do read line; done"
  const process = await client.spawn(sh(script), {
    pty: { rows: 33, columns: 101 },
    stdin: true,
    onStdout: (data) => {
      seen += Buffer.from(data).toString()
    },
  })
  await until(() => seen.includes('33 101'), 3000)
  await process.resize(44, 120)
  await process.writeStdin('typed\r')
  expect(await process.exited).toMatchObject({ status: 0 })
  expect(seen).toMatch(/^\/dev\/pts\/\d+\r\n33 101\r\n/)
  expect(seen).toContain('44 120')
})

test('closed stdin of a pty is an end of file', async () => {
  const { client } = await agent.conversation()
  const chunks: Uint8Array[] = []
  const process = await client.spawn(['cat'], {
    pty: { rows: 24, columns: 80 },
    stdin: true,
    onStdout: (data) => chunks.push(data),
  })
  await process.writeStdin('line\n')
  await process.closeStdin()
  expect(await process.exited).toMatchObject({ status: 0 })
  expect(Buffer.concat(chunks).toString()).toBe('line\r\nline\r\n')
})

test('Ctrl-C on a pty interrupts', async () => {
  const { client } = await agent.conversation()
  const process = await client.spawn(['sleep', '60'], { pty: { rows: 24, columns: 80 }, stdin: true })
  await process.writeStdin('\x03')
  expect(await process.exited).toMatchObject({ signal: 'SIGINT' })
})

test('a file of many frames arrives whole, with its mode and its parents', async () => {
  const { client } = await agent.conversation()
  const { stdout } = await collect(client, ['mktemp', '-d'])
  const path = `${stdout.trim()}/a/b/c.bin`
  const data = Buffer.from(Array.from({ length: 300_001 }, (_, index) => (index * 7) % 251))
  await client.writeFile(path, data, 0o755)
  expect(readFileSync(path).equals(data)).toBe(true)
  expect(statSync(path).mode & 0o7777).toBe(0o755)
  await client.writeFile(path, 'short')
  expect(readFileSync(path, 'utf8')).toBe('short')
  await client.writeFile(path, '')
  expect(readFileSync(path, 'utf8')).toBe('')
  await collect(client, ['rm', '-r', stdout.trim()])
})

test.for([
  { path: '/proc/version/x', code: 'ENOTDIR', message: 'in the guest: ENOTDIR' },
  { path: '/tmp', code: 'EISDIR', message: 'open /tmp in the guest: EISDIR' },
  { path: '/dev/null', code: 'EINVAL', message: 'open /dev/null in the guest: EINVAL' },
  { path: 'relative', code: 'EINVAL', message: 'write relative in the guest: EINVAL' },
])('a file that cannot be written rejects: $path', async ({ path, code, message }) => {
  const { client } = await agent.conversation()
  const error = await client.writeFile(path, 'data').catch((caught) => caught)
  expect(error).toMatchObject({ code })
  expect(error.message).toContain(message)
})

test('a ping is answered', async () => {
  const { client } = await agent.conversation()
  await expect(client.ping()).resolves.toBeUndefined()
})

/** A conversation by hand: greets with `version` and then sends `bytes`; tells what the agent said. */
async function talk(version: number, bytes: Uint8Array): Promise<{ types: number[]; closed: boolean }> {
  const socket = await agent.socket()
  const decoder = new FrameDecoder()
  const types: number[] = []
  let closed = false
  socket.on('data', (data) => types.push(...[...decoder.push(data as Buffer)].map((frame) => frame.type)))
  socket.on('close', () => {
    closed = true
  })
  await until(() => types.length > 0, 2000)
  socket.write(Buffer.concat([encodeFrame(toAgent.HELLO, 0, u32(version)), bytes]))
  await until(() => closed, 400)
  socket.destroy()
  return { types, closed }
}

const exec = (...argv: string[]) =>
  Buffer.concat([u32(execFlags.STDIN), u32(0), u16(0), u16(0), text(''), textList(argv), textList([])])

test.for([
  { what: 'a length over the limit', bytes: Buffer.from('ffffffff0200000001000000', 'hex') },
  { what: 'a reserved field that is not zero', bytes: Buffer.from('000000000800010001000000', 'hex') },
  { what: 'an unknown type', bytes: encodeFrame(77, 1) },
  { what: 'a truncated EXEC', bytes: encodeFrame(toAgent.EXEC, 1, u32(0)) },
  { what: 'an EXEC with id 0', bytes: encodeFrame(toAgent.EXEC, 0, exec('true')) },
  {
    what: 'a string without end',
    bytes: encodeFrame(toAgent.FILE, 1, u32(0), u32(0), u32(0), Buffer.from('/x')),
  },
  {
    what: 'a list longer than its payload',
    bytes: encodeFrame(toAgent.EXEC, 1, exec('true').subarray(0, 13), u32(1e9)),
  },
  { what: 'signal 0', bytes: encodeFrame(toAgent.SIGNAL, 1, u32(0)) },
  { what: 'a second greeting', bytes: encodeFrame(toAgent.HELLO, 0, u32(protocolVersion)) },
  {
    what: 'stdin beyond the credit',
    bytes: Buffer.concat([
      encodeFrame(toAgent.EXEC, 1, exec('sleep', '9')),
      ...Array.from({ length: 4 }, () => encodeFrame(toAgent.STDIN, 1, Buffer.alloc(65536))),
    ]),
  },
])('$what ends the conversation', async ({ bytes }) => {
  const { types, closed } = await talk(protocolVersion, bytes)
  expect(closed).toBe(true)
  expect(types[0]).toBe(toHost.HELLO)
})

test('another version ends the conversation', async () => {
  const { closed } = await talk(protocolVersion + 1, encodeFrame(toAgent.PING, 1))
  expect(closed).toBe(true)
})

test('an agent of another version is refused by the host', async () => {
  const { AgentClient } = await import('./client.ts')
  const failures: Error[] = []
  const client = new AgentClient(async () => {}, { onFailure: (error) => void failures.push(error) })
  client.receive(encodeFrame(toHost.HELLO, 0, u32(9), text('6.1'), textList([])))
  await expect(client.ready).rejects.toThrowErrorMatchingInlineSnapshot(
    `[KvitestError: agent protocol: the agent speaks version 9, not 2; build the agent and the initramfs again: npm run setup]`,
  )
  expect(failures).toHaveLength(1)
})

test('a lost connection ends every process and the next one starts fresh', async () => {
  const first = await agent.conversation()
  const marker = `876.${process.pid}`
  await first.client.spawn(
    sh(`trap '' TERM; sleep ${marker}1 & sleep ${marker}2; while :; do sleep 0.05; done`),
  )
  first.socket.destroy()
  expect(await running(`sleep ${marker}`)).toEqual([])
  await expect(first.client.spawn(['true'])).rejects.toThrow()
})

test('every call that waits fails when the conversation ends', async () => {
  const { client, socket } = await agent.conversation()
  const process = await client.spawn(['sleep', '60'])
  const waiting = client.ping()
  waiting.catch(() => {})
  socket.destroy()
  await expect(process.exited).rejects.toMatchObject({ code: 'EPIPE' })
  await expect(client.ping()).rejects.toMatchObject({ code: 'EPIPE' })
})

test('a listener that throws fails its own process, not the conversation', async () => {
  const { client } = await agent.conversation()
  const process = await client.spawn(['echo', 'hello'], {
    onStdout: () => {
      throw new Error('listener')
    },
  })
  await expect(process.exited).rejects.toThrow('listener')
  expect(await collect(client, ['true'])).toMatchObject({ status: 0 })
})

test('an agent that is alone for a while outside a guest goes away', async () => {
  const { socket } = await agent.conversation()
  await agent[Symbol.asyncDispose]()
  expect(agent.child.exitCode).toBe(0)
  expect(socket.readableEnded || socket.destroyed || socket.closed).toBe(true)
  agent = LocalAgent.start()
})
