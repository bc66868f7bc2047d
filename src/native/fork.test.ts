/** Checkpoint, fork and reset through the addon, with bare guests. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { loadAddon } from './addon.ts'
import type { NativeCheckpoint } from './contract.ts'
import { bareSpec, createBare, forkOf, type Recorded, startFork, whyNoKvm } from './testing/bare-guest.ts'

const encoder = new TextEncoder()
const directory = mkdtempSync(join(tmpdir(), 'kvitest-fork-'))
afterAll(() => rmSync(directory, { recursive: true }))

/** Has a steps.c guest do these steps, and waits for all it has ever printed. */
async function step({ machine, said }: Recorded, steps: string, printed: string): Promise<void> {
  await machine.write('serial', encoder.encode(steps))
  await said('debug', printed)
}

/** A checkpoint of steps.c whose counter is 2, as its pages say. */
async function atTwo(): Promise<NativeCheckpoint> {
  const guest = await createBare(bareSpec('steps', 3))
  await guest.machine.start()
  await step(guest, '++w', 'ABw')
  const checkpoint = await guest.machine.checkpoint()
  await guest.machine.stop()
  return checkpoint
}

const reason = whyNoKvm()

describe.skipIf(reason)(`checkpoint, fork, reset${reason ? ` (skipped: ${reason})` : ''}`, () => {
  test('a fork goes on where the checkpoint was, after the machine it was taken from is gone', async () => {
    const checkpoint = await atTwo()
    const fork = await startFork(checkpoint, { name: 'other' })

    await step(fork, 'r+x', 'BC')

    expect((await fork.ended).code).toBe(3)
    checkpoint.release()
  })

  test('the checkpoint says what it is of', async () => {
    const checkpoint = await atTwo()

    expect(checkpoint.info.spec).toEqual({ ...bareSpec('steps', 3), irqchip: false })
    expect(checkpoint.info.bytes).toBeGreaterThan(64 * 4096)
    expect(checkpoint.info.bytes).toBeLessThan(128 * 4096)
    checkpoint.release()
  })

  test('a mark parts the output before a checkpoint or reset from that after', async () => {
    const checkpoint = await atTwo()
    const fork = await startFork(checkpoint)
    await step(fork, '+', 'C')
    await fork.machine.reset()
    await step(fork, '+', 'CC')
    await fork.machine.checkpoint()
    await fork.machine.stop()

    expect(
      fork.events.map((event) => (event.type === 'data' ? Buffer.from(event.data).toString() : event)),
    ).toMatchObject(['C', { mark: 'reset' }, 'C', { mark: 'checkpoint' }, { type: 'end' }])
    checkpoint.release()
  })

  test('two checkpoints at once: the second is refused, the first is made', async () => {
    const guest = await createBare(bareSpec('steps', 3))
    await guest.machine.start()

    const [first, second] = await Promise.allSettled([guest.machine.checkpoint(), guest.machine.checkpoint()])

    if (first.status === 'rejected') throw first.reason
    first.value.release()
    expect(second).toMatchObject({ reason: { code: 'EBUSY', operation: 'checkpoint' } })
    const third = await guest.machine.checkpoint()
    third.release()
    await guest.machine.stop()
  })

  test('a guest that has ended is not saved', async () => {
    const guest = await createBare(bareSpec('hello', 3))
    await guest.machine.start()
    await guest.ended

    await expect(guest.machine.checkpoint()).rejects.toMatchObject({ code: 'EPIPE' })
  })

  test('a machine that was booted is not reset', async () => {
    const guest = await createBare(bareSpec('steps', 3))
    await guest.machine.start()

    await expect(guest.machine.reset()).rejects.toThrow(
      'reset: machine steps was booted, not forked (Invalid argument); take a checkpoint, fork it and reset the fork',
    )
    await guest.machine.stop()
  })

  test('what the caller believes of a checkpoint is checked, and the first difference named', async () => {
    const checkpoint = await atTwo()
    const asked = (expected: object) =>
      checkpoint
        .fork({ expected }, () => {})
        .then(
          () => 'forked',
          (error) => error.message,
        )

    expect(await asked({ cpus: 2, memory: 1 })).toMatchInlineSnapshot(
      `"fork: the checkpoint has 1 vCPUs, 2 were asked for (Invalid argument); take a checkpoint of the machine you want"`,
    )
    expect(await asked({ memory: 4 << 20 })).toMatchInlineSnapshot(
      `"fork: the checkpoint has 2 MiB of memory, 4 MiB were asked for (Invalid argument); take a checkpoint of the machine you want"`,
    )
    expect(await asked({ devices: [{ type: 'virtio-rng' }] })).toMatchInlineSnapshot(
      `"fork: the checkpoint has no devices, virtio-rng were asked for (Invalid argument); take a checkpoint of the machine you want"`,
    )
    const fork = await forkOf(checkpoint, { expected: { cpus: 1, memory: 2 << 20, devices: [] } })
    await fork.machine.stop()
    checkpoint.release()
  })

  test('options of other shapes are refused by name', async () => {
    const checkpoint = await atTwo()

    await expect(forkOf(checkpoint, { generationId: new Uint8Array(15) })).rejects.toThrow(
      'fork: generationId has 15 bytes, not 16',
    )
    await expect(forkOf(checkpoint, { name: 5 as never })).rejects.toThrow('name is not a string')
    await expect(checkpoint.save(7 as never)).rejects.toThrow('the path is not a string')
    checkpoint.release()
  })

  test('forks live on when the checkpoint is released, and no new one is made', async () => {
    const checkpoint = await atTwo()
    const fork = await startFork(checkpoint)

    checkpoint.release()
    checkpoint.release()

    await expect(forkOf(checkpoint)).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining('the checkpoint was released'),
    })
    await step(fork, '+r', 'CB')
    await fork.machine.reset()
    await step(fork, '+r', 'CBCB')
    await fork.machine.stop()
  })

  test('a saved checkpoint is loaded and forks go on from it', async () => {
    const path = join(directory, 'good')
    const checkpoint = await atTwo()
    await checkpoint.save(path)
    const { info } = checkpoint
    checkpoint.release()

    const loaded = await loadAddon().loadCheckpoint(path)
    const fork = await startFork(loaded)
    await step(fork, 'r+', 'BC')

    expect(loaded.info).toEqual(info)
    await fork.machine.stop()
    loaded.release()
  })

  test('a file that is cut, changed, longer or none of ours is refused', async () => {
    const path = join(directory, 'bad')
    const checkpoint = await atTwo()
    await checkpoint.save(path)
    checkpoint.release()
    const good = readFileSync(path)
    const load = async (bytes: Uint8Array) => {
      writeFileSync(path, bytes)
      return await loadAddon()
        .loadCheckpoint(path)
        .then(
          () => 'loaded',
          (error) => error.code,
        )
    }
    const changed = (at: number) => {
      const copy = Buffer.from(good)
      copy[at]! ^= 0xff
      return copy
    }

    for (let length = 0; length < good.length; length += length < 12_000 ? 97 : 4095) {
      expect(await load(good.subarray(0, length))).toBe('EBADMSG')
    }
    expect(await load(Buffer.concat([good, Buffer.alloc(1)]))).toBe('EBADMSG')
    expect(await load(Buffer.concat([good, Buffer.alloc(4096)]))).toBe('EBADMSG')
    // The header: magic, version, and every length.
    for (let at = 0; at < 48; at++) expect(await load(changed(at))).toBe('EBADMSG')
    await expect(loadAddon().loadCheckpoint(directory)).rejects.toMatchObject({ code: 'EBADMSG' })
    await expect(loadAddon().loadCheckpoint(join(directory, 'none'))).rejects.toMatchObject({
      code: 'ENOENT',
    })
  })

  test('a checkpoint that cannot be written leaves no file', async () => {
    const checkpoint = await atTwo()

    await expect(checkpoint.save('/dev/full/x')).rejects.toMatchObject({ code: 'ENOTDIR' })
    copyFileSync('/dev/null', join(directory, 'file'))
    await expect(checkpoint.save(join(directory, 'file', 'x'))).rejects.toMatchObject({ code: 'ENOTDIR' })
    checkpoint.release()
  })

  test('200 forks are alive at once, each with memory of its own', async () => {
    const guest = await createBare({ ...bareSpec('steps'), irqchip: true })
    await guest.machine.start()
    await step(guest, '++w', 'ABw')
    const checkpoint = await guest.machine.checkpoint()
    await guest.machine.stop()
    const forks = await Promise.all(Array.from({ length: 200 }, () => forkOf(checkpoint)))
    // One after the other, and then halted: two hundred that poll would wait for each other's processor.
    for (const [number, fork] of forks.entries()) {
      await fork.machine.start()
      const steps = number % 5
      await step(fork, `${'+'.repeat(steps)}wrh`, `w${'BCDEF'[steps]}h`)
    }

    expect(loadAddon().counts()).toMatchObject({ machines: 200, threads: 400 })
    await Promise.all(forks.map(({ machine }) => machine.stop()))
    checkpoint.release()
    expect(loadAddon().counts()).toEqual({ machines: 0, threads: 0, checkpoints: 0, rawSessions: 0 })
  })
})
