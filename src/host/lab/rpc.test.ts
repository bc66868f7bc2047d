import { expect, test } from 'vitest'
import { KvitestError } from '../../native/error.ts'
import { fromWire, openRpc, toWire } from './rpc.ts'

interface Served {
  add(a: number, b: number): Promise<number>
  fail(): Promise<void>
  never(): Promise<void>
  bytes(data: Uint8Array): Promise<Uint8Array>
}

function pair(served: Served) {
  const client = openRpc<Served, object>({}, [], (message) => queueMicrotask(() => server.receive(message)))
  const server = openRpc<object, Served>(served, [], (message) =>
    queueMicrotask(() => client.receive(message)),
  )
  return client.rpc
}

const served: Served = {
  add: async (a, b) => a + b,
  fail: async () => {
    throw new KvitestError('open the port', 'no such port', {
      code: 'ENODEV',
      hint: 'name another',
      infra: false,
    })
  },
  never: () => new Promise(() => {}),
  bytes: async (data) => data.map((byte) => byte + 1),
}

test('numbers and bytes go both ways', async () => {
  const rpc = pair(served)
  expect(await rpc.add(2, 3)).toBe(5)
  expect([...(await rpc.bytes(Uint8Array.of(1, 2, 255)))]).toEqual([2, 3, 0])
})

test('an error arrives with all its fields', async () => {
  const error = await pair(served)
    .fail()
    .catch((caught: unknown) => caught)
  expect(error).toBeInstanceOf(KvitestError)
  expect(error).toMatchObject({
    message: 'open the port: no such port; name another',
    operation: 'open the port',
    code: 'ENODEV',
    hint: 'name another',
    infra: false,
  })
})

test('closing hands its reason to the calls that wait and to later ones', async () => {
  const rpc = pair(served)
  const waiting = rpc.never()
  await rpc.add(1, 1)

  rpc.$close(new KvitestError('use a lab', 'it died', { code: 'EINFRA' }))

  await expect(waiting).rejects.toThrow('use a lab: it died')
  await expect(rpc.add(1, 1)).rejects.toThrow('closed')
})

test('an error of the system crosses as one line too', () => {
  const wire = toWire(Object.assign(new Error('ENOENT: no such file'), { code: 'ENOENT' }))
  expect(fromWire(wire)).toMatchObject({ code: 'ENOENT', message: 'lab: ENOENT: no such file', infra: true })
})
