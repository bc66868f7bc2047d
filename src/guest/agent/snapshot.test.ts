/** The conversation at a checkpoint, and a client that takes it up in a fork. The agent's side is written by hand. */
import { expect, test } from 'vitest'
import { AgentClient } from './client.ts'
import { encodeFrame, FrameDecoder, text, textList, u32, u64 } from './frames.ts'
import { exitKind, protocolVersion, toAgent, toHost } from './protocol.ts'

const hello = encodeFrame(toHost.HELLO, 0, u32(protocolVersion), text('6.12'), textList(['no rng']))
const exit = (id: number) => encodeFrame(toHost.EXIT, id, u32(exitKind.EXITED), u32(0), u64(1000))

interface Conversation {
  client: AgentClient
  sent: { type: number; id: number; payload: Buffer }[]
  failures: string[]
}

function converse(
  make: (write: (data: Uint8Array) => Promise<void>, fail: (error: Error) => void) => AgentClient,
) {
  const decoder = new FrameDecoder()
  const conversation: Omit<Conversation, 'client'> = { sent: [], failures: [] }
  const client = make(
    async (data) => void conversation.sent.push(...decoder.push(Uint8Array.from(data))),
    (error) => conversation.failures.push(error.message),
  )
  return { client, ...conversation }
}

/** A client with one process (id 1) that runs and one request (id 2) that waits. */
function busy(): Conversation & { said: string[] } {
  const said: string[] = []
  const conversation = converse((write, fail) => new AgentClient(write, { onFailure: fail }))
  const { client } = conversation
  client.receive(hello)
  client.spawn(['sleep', '9'], { onStdout: (data) => said.push(String(data)) }).catch(() => {})
  client.receive(encodeFrame(toHost.STARTED, 1, u32(77)))
  client.ping().catch(() => {})
  return { ...conversation, said }
}

test('a snapshot before the greeting is refused', () => {
  const { client } = converse((write) => new AgentClient(write))
  expect(() => client.snapshot()).toThrow('make a checkpoint: the agent has not greeted yet')
})

test('a snapshot is plain data that survives a structured clone', () => {
  const { client } = busy()
  client.receive(encodeFrame(toHost.STDOUT, 1, Buffer.from('half')).subarray(0, 14))
  const snapshot = structuredClone(client.snapshot())
  expect(snapshot).toEqual({
    hello: { kernelRelease: '6.12', warnings: ['no rng'] },
    partial: new Uint8Array(encodeFrame(toHost.STDOUT, 1, Buffer.from('half')).subarray(0, 14)),
    nextId: 3,
    inherited: [1, 2],
  })
})

test('a fork takes up a frame in its middle, and drops what the inherited process and request still say', async () => {
  const output = encodeFrame(toHost.STDOUT, 1, Buffer.from('half'))
  const original = busy()
  original.client.receive(output.subarray(0, 14))
  const fork = converse((write, fail) =>
    AgentClient.resume(original.client.snapshot(), write, { onFailure: fail }),
  )
  fork.client.receive(output.subarray(14))
  fork.client.receive(encodeFrame(toHost.STDIN_CREDIT, 1, u32(9)))
  fork.client.receive(encodeFrame(toHost.PONG, 2))
  fork.client.receive(exit(1))
  const ping = fork.client.ping()
  fork.client.receive(encodeFrame(toHost.PONG, 3))
  await ping
  expect(await fork.client.ready).toMatchObject({ kernelRelease: '6.12' })
  expect(fork.failures).toEqual([])
  expect(original.said).toEqual([])
  original.client.receive(output.subarray(14))
  expect(original.said).toEqual(['half'])
})

test('a process that was asked for at the checkpoint and starts in the fork has no listener there', () => {
  const original = converse((write) => new AgentClient(write))
  original.client.receive(hello)
  original.client.spawn(['late']).catch(() => {})
  const fork = converse((write, fail) =>
    AgentClient.resume(original.client.snapshot(), write, { onFailure: fail }),
  )
  fork.client.receive(encodeFrame(toHost.STARTED, 1, u32(5)))
  fork.client.receive(encodeFrame(toHost.STDERR, 1, Buffer.from('x')))
  fork.client.receive(exit(1))
  expect(fork.failures).toEqual([])
})

test('an inherited process that has ended says no more: later frames about it break the protocol', () => {
  const fork = converse((write, fail) =>
    AgentClient.resume(busy().client.snapshot(), write, { onFailure: fail }),
  )
  fork.client.receive(exit(1))
  fork.client.receive(encodeFrame(toHost.STDOUT, 1, Buffer.from('ghost')))
  expect(fork.failures).toEqual(['agent protocol: output of no process (1)'])
})

test('frames of unknown processes and types break the protocol in a fork as anywhere', () => {
  const stranger = converse((write, fail) =>
    AgentClient.resume(busy().client.snapshot(), write, { onFailure: fail }),
  )
  stranger.client.receive(encodeFrame(toHost.STDOUT, 9, Buffer.from('x')))
  const odd = converse((write, fail) =>
    AgentClient.resume(busy().client.snapshot(), write, { onFailure: fail }),
  )
  odd.client.receive(encodeFrame(250, 1))
  expect([stranger.failures, odd.failures]).toEqual([
    ['agent protocol: output of no process (9)'],
    ['agent protocol: unknown frame 250'],
  ])
})

test('a fork of a fork inherits what its parent inherited', () => {
  const first = AgentClient.resume(busy().client.snapshot(), async () => {})
  first.ping().catch(() => {})
  expect(first.snapshot()).toMatchObject({ nextId: 4, inherited: [1, 2, 3] })
})

test('a fork is told with entropy, boot id and clock in one frame', async () => {
  const fork = converse((write) => AgentClient.resume(busy().client.snapshot(), write))
  const entropy = Buffer.alloc(64, 'e')
  const bootId = Buffer.alloc(16, 'b')
  const told = fork.client.forked({ entropy, bootId, clock: 1_800_000_000_123_456_789n })
  fork.client.receive(encodeFrame(toHost.DONE, 3))
  await told
  const { type, id, payload } = fork.sent[0]!
  expect([type, id]).toEqual([toAgent.FORKED, 3])
  expect(payload).toEqual(Buffer.concat([entropy, bootId, u64(1_800_000_000_123_456_789n)]))
})
