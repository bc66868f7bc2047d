import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { text } from 'node:stream/consumers'
import { describe, expect, test } from 'kvitest/test'
import { shell } from './shell.ts'

/** Our own device; and the host's kernel, whose AF_VSOCK sockets the same calls then use. */
describe.each(['streams', 'vhost'] as const)('%s', (kind) => {
  test.override('guestOptions', {
    devices: [{ type: 'virtio-vsock', name: 'vsock0', cid: 40, backend: { kind } }],
    files: { '/bin/talk': 'build/Release/programs/talk' },
  })

  test('a fork has a CID of its own, and a connection of its parent is reset there only', async ({
    guest,
  }) => {
    const connected = Promise.withResolvers<Duplex>()
    await using _listener = await guest.vsock().listen(1000, connected.resolve)
    await shell(
      guest,
      '(sleep 1000 | talk vsock 2 1000 >/tmp/heard 2>/tmp/error; echo $? >/tmp/status) >/dev/null 2>&1 &',
    )
    const socket = await connected.promise
    const hears = (text: string) =>
      `for i in $(seq 300); do [ "$(cat /tmp/heard)" = '${text}' ] && break; sleep 0.1; done; cat /tmp/heard`
    // The host has the connection before its guest has: a reset that comes first resets nothing there.
    socket.write('hello')
    expect(await shell(guest, hears('hello'))).toBe('hello')

    await using fork = await guest.fork({ devices: { vsock0: { cid: 41 } } })
    const settled = 'for i in $(seq 300); do [ -s /tmp/error ] && break; sleep 0.1; done; cat /tmp/error'
    // The driver marks the socket closed and in error, one after the other: a reader may find either.
    expect(await shell(fork, settled)).toMatch(/reset by peer|not connected/)
    expect(await shell(fork, 'talk cid')).toBe('41')

    socket.write(', still there')
    expect(await shell(guest, hears('hello, still there'))).toBe('hello, still there')
    expect(await shell(guest, 'talk cid')).toBe('40')
    const closed = once(socket, 'close')
    socket.destroy()
    await closed
  })

  test('two forks speak with the host at once, each on its own', async ({ guest }) => {
    await using checkpoint = await guest.checkpoint()
    const answers = await Promise.all(
      ['one', 'two'].map(async (name, index) => {
        await using fork = await checkpoint.fork({ devices: { vsock0: { cid: 50 + index } } })
        const heard = Promise.withResolvers<string>()
        await using _listener = await fork.vsock().listen(7, (socket) => {
          heard.resolve(text(socket))
          socket.end(`hello ${name}`)
        })
        const said = await shell(fork, `talk cid | talk vsock 2 7`)
        return [said, await heard.promise]
      }),
    )
    expect(answers).toEqual([
      ['hello one', '50\n'],
      ['hello two', '51\n'],
    ])
  })

  test('a host that does not read holds its guest back, not the memory', async ({ guest }) => {
    const connected = Promise.withResolvers<Duplex>()
    await using _listener = await guest.vsock().listen(1000, connected.resolve)
    await shell(
      guest,
      '(head -c 3000000 /dev/zero | talk vsock 2 1000 >/dev/null 2>&1; echo $? >/tmp/status) >/dev/null 2>&1 &',
    )
    const socket = await connected.promise
    await shell(guest, 'sleep 1; [ ! -e /tmp/status ]')
    let bytes = 0
    for await (const data of socket) bytes += (data as Buffer).length
    expect(bytes).toBe(3_000_000)
    socket.end()
    await shell(
      guest,
      'for i in $(seq 300); do [ -s /tmp/status ] && break; sleep 0.1; done; grep -qx 0 /tmp/status',
    )
  })
})

/** Where KVM cannot turn what the host's kernel says of a ring into an interrupt by itself: our transport does. */
describe.each([
  { name: 'on virtio-mmio', transport: 'mmio', cmdline: '' },
  { name: 'by INTx', transport: 'pci', cmdline: 'pci=nomsi' },
] as const)('vhost $name', ({ transport, cmdline }) => {
  test.override('guestOptions', {
    cmdline,
    devices: [{ type: 'virtio-vsock', name: 'vsock0', cid: 42, backend: { kind: 'vhost' }, transport }],
    files: { '/bin/talk': 'build/Release/programs/talk' },
  })

  test('a stream goes both ways, in a fork too', async ({ guest }) => {
    // By its line, and not by MSI-X.
    await shell(guest, 'grep IO-APIC.*virtio /proc/interrupts')
    await using fork = await guest.fork({ devices: { vsock0: { cid: 43 } } })
    for (const one of [guest, fork]) {
      await using _listener = await one.vsock().listen(7, (socket) => socket.pipe(socket))
      await shell(
        one,
        'head -c 1000000 /dev/urandom >/tmp/noise && talk vsock 2 7 </tmp/noise >/tmp/back && cmp /tmp/noise /tmp/back',
      )
    }
  })
})

describe('Unix sockets', () => {
  // Of this worker: a host has each path once.
  const path = `/tmp/kvitest-vsock-${process.env.VITEST_POOL_ID}`
  test.override('guestOptions', {
    devices: [{ type: 'virtio-vsock', name: 'vsock0', cid: 40, backend: { kind: 'unix', path } }],
    files: { '/bin/talk': 'build/Release/programs/talk' },
  })

  test('a guest speaks with another: the path of one is where the other connects to for port 80', async ({
    guest,
  }) => {
    await using other = await guest.fork({ devices: { vsock0: { cid: 41, path: `${path}_80` } } })
    await shell(
      other,
      '(echo from the other | talk vsock-listen 9000 >/tmp/heard 2>&1; echo >/tmp/done) >/dev/null 2>&1 &',
    )
    // Until it listens the other refuses, and its host hangs up.
    const said = await shell(
      guest,
      'for i in $(seq 100); do printf "CONNECT 9000\nhello" | talk vsock 2 80 >/tmp/said 2>&1 && grep OK /tmp/said && break; sleep 0.1; done; tail -n 1 /tmp/said',
    )
    expect(said).toMatch(/^OK \d+\nfrom the other$/)
    const heard = 'for i in $(seq 100); do [ -e /tmp/done ] && break; sleep 0.1; done; cat /tmp/heard'
    expect(await shell(other, heard)).toBe('hello')
    expect(await shell(guest, 'talk vsock 2 81 </dev/null 2>&1 || true')).toMatch(/reset by peer/)
  })

  test('a fork needs a path of its own', async ({ guest }) => {
    await expect(guest.fork({ devices: { vsock0: { cid: 41 } } })).rejects.toThrow(
      `${path} of this host (Address already in use); remove it when nobody uses it; give this one, or this fork, another path`,
    )
  })
})
