import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { Qmp } from './qmp.ts'

/** A channel with its other end, where `answers` reply to the commands in order. */
async function channel(answers: string[]): Promise<{ qmp: Qmp; asked: string[]; peer: Socket }> {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-qmp-'))
  const server = createServer().listen(join(place, 'qmp.sock'))
  await once(server, 'listening')
  const near = connect(join(place, 'qmp.sock'))
  const [peer] = (await once(server, 'connection')) as [Socket]
  onTestFinished(async () => {
    near.destroy()
    server.close()
    await rm(place, { recursive: true })
  })
  const asked: string[] = []
  peer.on('error', () => {})
  peer.on('data', (data) => {
    for (const line of String(data).trim().split('\n')) {
      asked.push(line)
      peer.write(`${answers.shift() ?? ''}\n`)
    }
  })
  peer.write('{"QMP": {"version": {}, "capabilities": []}}\r\n')
  return { qmp: new Qmp(near), asked, peer }
}

test('negotiates once, and answers belong to their commands whatever events come between', async () => {
  const { qmp, asked } = await channel([
    '{"return": {}}',
    '{"event": "STOP"}\r\n{"return": {"first": 1}}',
    '{"return": 2}',
  ])
  expect(await Promise.all([qmp.execute('one', { a: 1 }), qmp.execute('two')])).toEqual([{ first: 1 }, 2])
  expect(asked).toEqual([
    '{"execute":"qmp_capabilities","arguments":{}}',
    '{"execute":"one","arguments":{"a":1}}',
    '{"execute":"two","arguments":{}}',
  ])
})

test("an error is QEMU's own words after the command", async () => {
  const { qmp } = await channel([
    '{"return": {}}',
    '{"error": {"class": "GenericError", "desc": "no such file"}}',
  ])
  await expect(qmp.execute('save')).rejects.toThrow('command QEMU: save: no such file')
})

test('what waits when the channel closes is told, and so is what comes later', async () => {
  const { qmp, peer } = await channel(['{"return": {}}'])
  const waiting = qmp.execute('stop')
  waiting.catch(() => {})
  peer.once('data', () => peer.end())
  await expect(waiting).rejects.toThrow('QEMU closed the channel')
  await expect(qmp.execute('stop')).rejects.toThrow('QEMU closed the channel')
})

test('an answer that is no JSON ends the channel', async () => {
  const { qmp } = await channel(['nonsense'])
  await expect(qmp.execute('stop')).rejects.toThrow('command QEMU: qmp_capabilities: no JSON')
})
