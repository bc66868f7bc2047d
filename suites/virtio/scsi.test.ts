/** virtio-scsi from both ends: what is on its units, and units that come and go while the guest looks. */
import { createHash } from 'node:crypto'
import type { Guest } from 'kvitest'
import { expect, test } from 'kvitest/test'
import { shell } from './shell.ts'

const mebibyte = 1024 * 1024
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex')

test.override('guestOptions', {
  devices: [
    {
      type: 'virtio-scsi',
      name: 'scsi0',
      luns: [
        { name: 'lun0', memory: 4 * mebibyte },
        { name: 'lun5', memory: mebibyte, lun: 5 },
      ],
    },
  ],
})

const functions = `unit() { for path in /sys/block/sd*; do case "$(readlink -f "$path/device")" in *:0:"$1") echo "\${path##*/}";; esac; done; }
  there() { until [ -b "/dev/$(unit "$1")" ]; do sleep 0.05; done; }
  gone() { while [ -n "$(unit "$1")" ]; do sleep 0.05; done; }
  set -e\n`

/** With `unit LUN`, the disk at that number of target 0, and `there LUN` and `gone LUN`, which wait for it. */
const withUnits = (guest: Guest, script: string) => shell(guest, functions + script)

test('each unit has the same bytes at both ends', async ({ guest }) => {
  const scsi = guest.scsi()
  for (const lun of [0, 5]) {
    const disk = scsi.disk(`lun${lun}`)
    const written = await withUnits(
      guest,
      `there ${lun}; head -c 1000000 /dev/urandom >/noise
       dd if=/noise of=/dev/$(unit ${lun}) bs=64k conv=notrunc,fsync 2>/dev/null; sha256sum </noise`,
    )
    expect(await disk.sha256(0, 1_000_000)).toBe(written.split(' ')[0])

    const data = Buffer.alloc(100_000, `host ${lun}`)
    await disk.write(mebibyte / 2 + 3, data)
    const read = await withUnits(
      guest,
      `dd if=/dev/$(unit ${lun}) bs=512k skip=1 count=1 iflag=direct 2>/dev/null | tail -c +4 | head -c ${data.length} | sha256sum`,
    )
    expect(read.split(' ')[0]).toBe(sha256(data))
  }
  await expect(scsi.disk('lun5').read(mebibyte, 1)).rejects.toMatchObject({ code: 'EINVAL' })
})

test('a unit comes and goes while the guest looks', async ({ guest }) => {
  const scsi = guest.scsi()
  await withUnits(guest, 'there 0')
  const arrives = withUnits(
    guest,
    'there 9; echo guest | dd of=/dev/$(unit 9) bs=512 conv=sync oflag=direct 2>/dev/null; cat /sys/block/$(unit 9)/size',
  )
  const disk = await scsi.attach({ name: 'late', lun: 9, memory: mebibyte })
  expect(await arrives).toBe('2048')
  expect(Buffer.from(await disk.read(0, 6)).toString()).toBe('guest\n')
  await expect(scsi.attach({ name: 'again', lun: 9, memory: mebibyte })).rejects.toMatchObject({
    code: 'EEXIST',
  })

  const leaves = withUnits(guest, 'gone 9; unit 0')
  await scsi.detach('late')
  expect(await leaves).toMatch(/^sd/)
  await expect(disk.read(0, 6)).rejects.toMatchObject({ code: 'ENOENT' })
  await expect(scsi.detach('late')).rejects.toMatchObject({ code: 'ENOENT' })
})

test('a fork has the units of its checkpoint, and bytes of its own', async ({ guest }) => {
  await guest.scsi().attach({ name: 'late', lun: 9, memory: mebibyte })
  await guest.scsi().disk('late').write(0, 'before')
  await withUnits(guest, 'there 9; there 5')
  await guest.scsi().detach('lun5')
  await withUnits(guest, 'gone 5')
  await using fork = await guest.fork()

  await fork.scsi().disk('late').write(0, 'fork..')
  const first = 'dd if=/dev/$(unit 9) bs=512 count=1 iflag=direct 2>/dev/null | head -c 6'
  expect(await withUnits(fork, first)).toBe('fork..')
  expect(await withUnits(guest, first)).toBe('before')
  await expect(fork.scsi().disk('lun5').size()).rejects.toMatchObject({ code: 'ENOENT' })
  await fork.scsi().detach('late')
  await withUnits(fork, 'gone 9; [ -z "$(unit 5)" ]')
  expect(await withUnits(guest, first)).toBe('before')
})
