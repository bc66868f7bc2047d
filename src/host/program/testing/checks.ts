/** What must hold of programs of a pack on every kind of host; the pack is busybox alone. */
import { describe, expect, test } from 'vitest'
import type { ProgramPlace, ProgramRequest } from '../contract.ts'

export function programChecks(open: () => ProgramPlace): void {
  const sh = (script: string, options: Partial<ProgramRequest> = {}) =>
    open().run({ argv: ['/bin/sh', '-c', script], deadline: 60_000, ...options })

  test('its streams and its exit status come back', async () => {
    const result = await sh('echo to stdout; echo to stderr >&2; exit 4')
    expect(result).toMatchObject({
      status: 4,
      signal: null,
      expired: false,
      lost: 0,
      stdout: 'to stdout\n',
      stderr: 'to stderr\n',
    })
  })

  test('exit status 254 is one, and a signal has its name', async () => {
    expect(await sh('exit 254')).toMatchObject({ status: 254, signal: null })
    expect(await sh('kill -SEGV $$')).toMatchObject({ status: null, signal: 'SIGSEGV' })
  })

  test('it sees its pack, devices and the kernel, and nothing else', async () => {
    const { stdout } = await sh('busybox ls /; busybox ls -d /etc/* /usr/* /home/* /kvitest/*')
    expect(stdout.trim().split('\n')).toEqual(['bin', 'dev', 'proc', 'run', 'sys', 'tmp'])
    expect((await sh('busybox ls /dev/kvm')).stdout).toBe('/dev/kvm\n')
    expect((await sh('busybox env')).stdout).not.toContain('KVITEST')
  })

  test('it may write to /tmp, which the next one finds empty, and not to its pack', async () => {
    expect(await sh('echo 1 > /tmp/mark && busybox cat /tmp/mark')).toMatchObject({ stdout: '1\n' })
    expect(await sh('busybox cat /tmp/mark')).toMatchObject({ status: 1 })
    const write = await sh('echo 1 > /bin/kvitest-mark')
    expect(write.stderr).toContain('Read-only file system')
    expect(write.status).not.toBe(0)
  })

  test("its network is its own, or the host's when asked for", async () => {
    const namespace = 'busybox readlink /proc/self/ns/net'
    const own = await sh(namespace)
    expect(own.stdout).toMatch(/^net:\[\d+\]\n$/)
    const [first, second] = [
      await sh(namespace, { network: 'host' }),
      await sh(namespace, { network: 'host' }),
    ]
    expect(first.stdout).toMatch(/^net:\[\d+\]\n$/)
    expect(second.stdout).toBe(first.stdout)
    expect(first.stdout).not.toBe(own.stdout)
  })

  test('it has a /dev/shm of its own, empty at first', async () => {
    expect(
      await sh('busybox ls -A /dev/shm; echo 1 > /dev/shm/mark && busybox cat /dev/shm/mark'),
    ).toMatchObject({
      status: 0,
      stdout: '1\n',
    })
    expect(await sh('busybox ls -A /dev/shm')).toMatchObject({ status: 0, stdout: '' })
  })

  test('over its deadline it is killed with what it started, in a session of its own too', async () => {
    const result = await sh('echo begun; setsid sleep 1000 & sleep 1000', { deadline: 2000 })
    expect(result).toMatchObject({ expired: true, stdout: 'begun\n' })
  })

  test('when it ends, what it left behind ends with it', async () => {
    const result = await sh('setsid sleep 1000 & exit 0', { deadline: 50_000 })
    expect(result).toMatchObject({ status: 0, expired: false })
  })

  test('output beyond the limit is counted and not kept', async () => {
    const result = await sh('busybox yes | busybox head -c 300000', { outputLimit: 1000 })
    expect(result.stdout).toHaveLength(1000)
    expect(result).toMatchObject({ status: 0, lost: 299_000 })
  })

  test('a program that the pack lacks is exit status 127', async () => {
    const result = await open().run({ argv: ['/bin/absent'], deadline: 10_000 })
    expect(result).toMatchObject({ status: 127 })
    expect(result.stderr).toContain('/bin/absent')
  })

  describe('its output comes', () => {
    test('while it runs', async () => {
      const first = Promise.withResolvers<string>()
      const running = open().run(
        { argv: ['/bin/sh', '-c', 'echo early; sleep 1000'], deadline: 4000 },
        (stream, data) => first.resolve(`${stream} ${Buffer.from(data).toString()}`),
      )
      // Not before the deadline, which is the only end it has.
      const order: string[] = []
      void first.promise.then(() => order.push('output'))
      await running.then(() => order.push('end'))
      expect(await first.promise).toBe('stdout early\n')
      expect(order).toEqual(['output', 'end'])
    })
  })
}
