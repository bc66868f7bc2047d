import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { expect, test } from 'vitest'
import type { HostMachine } from '../host/machine-host.ts'
import { MachineVsock } from './vsock.ts'

/** The calls that reach the machine; the tests speak for the guest. */
function machineSide() {
  const calls: string[] = []
  const taken = new Map<string, number>()
  let next = 0
  const machine = {
    write: async (channel: string, data: Uint8Array) =>
      void calls.push(`write ${channel} ${Buffer.from(data)}`),
    consumed: (channel: string, bytes: number) => void taken.set(channel, (taken.get(channel) ?? 0) + bytes),
    vsockListen: async (_device: string, port: number, on: boolean) =>
      void calls.push(`listen ${port} ${on}`),
    vsockConnect: async () => `v#${++next}`,
    vsockClose: async (channel: string, whole: boolean) => void calls.push(`close ${channel} ${whole}`),
  } as unknown as HostMachine
  const vsock = new MachineVsock('v', () => machine)
  const tell = (channel: string, event: 'open' | 'end' | 'close', hostPort?: number) =>
    vsock.onEvent({ type: 'vsock', device: 'v', channel, event, ...(hostPort ? { hostPort } : {}) })
  return { calls, taken, vsock, tell }
}

test('a connection of the guest is a stream whose end, closed or not, is told to the machine once it is over', async () => {
  const { calls, taken, vsock, tell } = machineSide()
  const heard: Promise<string>[] = []
  const listener = await vsock.listen(7, (socket) => {
    heard.push(text(socket))
    socket.end('from the host')
  })
  tell('v#9', 'open', 7)
  vsock.receive('v#9', Buffer.from('from the '))
  vsock.receive('v#9', Buffer.from('guest'))
  tell('v#9', 'end')
  expect(await heard[0]).toBe('from the guest')
  expect(taken.get('v#9')).toBe(14)
  tell('v#9', 'close')
  await expect.poll(() => calls).toContain('close v#9 true')
  expect(calls.slice(0, 3)).toEqual(['listen 7 true', 'write v#9 from the host', 'close v#9 false'])
  await listener.close()
  expect(calls.at(-1)).toBe('listen 7 false')
})

test('what nobody reads is not acknowledged beyond what a stream holds', async () => {
  const { taken, vsock, tell } = machineSide()
  await vsock.listen(7, () => {})
  tell('v#1', 'open', 7)
  for (let i = 0; i < 10; i++) vsock.receive('v#1', new Uint8Array(64 * 1024))
  expect(taken.get('v#1') ?? 0).toBeLessThanOrEqual(64 * 1024)
})

test('a connection that nobody wants is closed, and a port is listened on once', async () => {
  const { calls, taken, vsock, tell } = machineSide()
  await vsock.listen(7, () => {})
  await expect(vsock.listen(7, () => {})).rejects.toMatchObject({ code: 'EADDRINUSE' })
  tell('v#5', 'open', 8)
  expect(calls).toContain('close v#5 true')
  vsock.receive('v#5', new Uint8Array(3))
  expect(taken.get('v#5')).toBe(3)
})

test('connect() waits for the guest, whose answer may come before the call returns', async () => {
  const { calls, vsock, tell } = machineSide()
  const accepted = vsock.connect(80)
  tell('v#1', 'open')
  const socket = await accepted
  tell('v#1', 'end')
  expect(await text(socket)).toBe('')
  const refused = vsock.connect(81)
  await Promise.resolve()
  tell('v#2', 'close')
  await expect(refused).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  expect(calls).toContain('close v#2 true')
})

test('a guest that answers, speaks and ends before connect() returns is heard', async () => {
  const { calls, taken, vsock, tell } = machineSide()
  const accepted = vsock.connect(80)
  tell('v#1', 'open')
  vsock.receive('v#1', Buffer.from('from the '))
  vsock.receive('v#1', Buffer.from('guest'))
  tell('v#1', 'end')
  tell('v#1', 'close')
  expect(await text(await accepted)).toBe('from the guest')
  expect(taken.get('v#1')).toBe(14)
  await expect.poll(() => calls).toEqual(['close v#1 false', 'close v#1 true'])
})

test('a reset ends every connection and listens again; the end of the guest ends all', async () => {
  const { calls, vsock, tell } = machineSide()
  const sockets: import('node:stream').Duplex[] = []
  await vsock.listen(7, (socket) => void sockets.push(socket))
  tell('v#1', 'open', 7)
  const failed = once(sockets[0]!, 'error')
  vsock.reset()
  expect((await failed)[0]).toMatchObject({ code: 'ECANCELED' })
  expect(calls.filter((call) => call === 'listen 7 true')).toHaveLength(2)
  const waiting = vsock.connect(80)
  await new Promise(setImmediate)
  vsock.end('pass')
  await expect(waiting).rejects.toMatchObject({ code: 'EPIPE' })
})
