/** virtio-balloon from the host: what it says, and what memory the host really has. */
import type { DeviceSpec, Guest } from 'kvitest'
import { describe, expect, test } from 'kvitest/test'
import { shell } from './shell.ts'

const mebibyte = 1024 * 1024
// Reports would give memory back besides.
const alone: DeviceSpec = { type: 'virtio-balloon', name: 'balloon0', withoutFeatures: ['page_reporting'] }

/** So much of the host's memory is taken, and free again in the guest. */
const touch = (guest: Guest, mebibytes: number) =>
  shell(
    guest,
    `[ -d /ram ] || { mkdir /ram && mount -t tmpfs none /ram; }; dd if=/dev/zero of=/ram/touched bs=1M count=${mebibytes} && rm /ram/touched`,
  )

describe('without free page reporting', () => {
  test.override('guestOptions', { devices: [alone], memory: '128M' })

  test('the host gets the memory that a guest gives, and only while it does', async ({ guest }) => {
    await touch(guest, 24)
    const touched = await guest.privateMemory()
    expect(touched).toBeGreaterThan(22 * mebibyte)

    const { inflated, ignored } = await guest.balloon().inflate(32 * mebibyte)
    const given = await guest.privateMemory()
    expect(inflated).toBeGreaterThanOrEqual(32 * mebibyte)
    expect(ignored).toBe(0)
    expect(touched - given).toBeGreaterThan(12 * mebibyte)

    await guest.balloon().inflate(0)
    await touch(guest, 24)
    expect(await guest.privateMemory()).toBeGreaterThan(given + 12 * mebibyte)
  })

  test('forks have balloons of their own, and no page of one shows in another', async ({ guest }) => {
    await touch(guest, 16)
    await shell(guest, 'head -c 2m /dev/urandom >/ram/kept; sha256sum </ram/kept >/ram/digest')
    const kept = 'sha256sum </ram/kept | cmp - /ram/digest'
    await guest.balloon().inflate(8 * mebibyte)
    await using fork = await guest.fork()
    await using other = await guest.fork()
    expect((await fork.balloon().report()).actual).toBe(8 * mebibyte)

    await fork.balloon().inflate(24 * mebibyte)
    await guest.balloon().inflate(0)
    await touch(guest, 16)
    await fork.balloon().inflate(0)
    await touch(fork, 16)

    expect((await other.balloon().report()).actual).toBe(8 * mebibyte)
    for (const each of [guest, fork, other]) await shell(each, kept)
    await using grandchild = await fork.fork()
    await shell(grandchild, kept)
    await fork.reset()
    await shell(fork, kept)
    expect((await fork.balloon().inflate(mebibyte)).actual).toBe(mebibyte)
    await shell(fork, kept)
  })

  test('statistics come when asked for, and by themselves while they are polled', async ({ guest }) => {
    const total = Number(await shell(guest, "awk '/^MemTotal:/ { print $2 }' /proc/meminfo")) * 1024
    const statistics = await guest.balloon().statistics()
    expect(statistics.total).toBe(total)
    expect(statistics.free).toBeLessThan(total)
    expect(statistics.available).toBeGreaterThan(total / 4)

    const updates = async () => (await guest.balloon().report()).updates
    const before = await updates()
    await guest.balloon().poll(20)
    await expect.poll(updates, { timeout: 20_000 }).toBeGreaterThan(before + 3)
    await guest.balloon().poll(0)
    await guest.balloon().statistics()
    const after = await updates()
    await shell(guest, 'sleep 1')
    expect(await updates()).toBe(after)
  })
})
