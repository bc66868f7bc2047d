/**
 * virtio-9p through Linux's client. Debian's cloud kernels have no 9p and those that have are 70 and 107 MB to fetch, so it
 * is not part of npm test.
 */
import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'kvitest/test'
import { makeShare, mount, pattern, sha256 } from './p9.ts'
import { shell } from './shell.ts'

const content = pattern(1_000_003)
const shared = makeShare({
  file: content,
  'sub/deep': 'deep',
  ...Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`sub/file-${n}`, ''])),
})
symlinkSync('/etc/passwd', join(shared, 'absolute'))
symlinkSync('../../../../../../etc/passwd', join(shared, 'relative'))
symlinkSync('sub/deep', join(shared, 'inside'))

describe.for(['debian:6.12-generic', 'debian:6.1-generic'])('%s', (kernel) => {
  describe('read only', () => {
    test.override('guestOptions', {
      kernel,
      devices: [{ type: 'virtio-9p', tag: 'share', path: shared, readOnly: true }],
    })

    test('the guest has the bytes of the host, and cannot change them', async ({ guest }) => {
      const sum = await shell(guest, `${mount()} && sha256sum <file`)
      expect(sum.split(' ')[0]).toBe(sha256(content))
      expect(await shell(guest, 'cat /mnt/inside && ls /mnt/sub | wc -l')).toBe('deep201')
      for (const attempt of ['echo x >/mnt/new', 'echo x >>/mnt/file', 'rm /mnt/file', 'mkdir /mnt/d']) {
        const result = await guest.exec(['sh', '-c', attempt])
        expect(result.status, attempt).not.toBe(0)
        expect(result.stderr).toContain('Read-only file system')
      }
    })

    test("a link that leads out of the directory leads to the guest's own file", async ({ guest }) => {
      await shell(guest, `echo of the guest >/etc/passwd && ${mount()}`)
      expect(await shell(guest, 'cat /mnt/absolute')).toBe('of the guest')
      expect(await shell(guest, 'cat /mnt/relative')).toBe('of the guest')
      expect(await shell(guest, 'ls -a /mnt/..')).toContain('etc')
    })

    test('a fork goes on with what it has mounted and open', async ({ guest }) => {
      await shell(
        guest,
        `${mount()} && (exec 3<file; head -c 1000 <&3 >/dev/null; sleep 1000) >/dev/null 2>&1 &`,
      )
      await shell(guest, 'while ! grep -q 9p /proc/mounts; do sleep 0.1; done')
      await using fork = await guest.fork()
      const sum = await shell(fork, 'sha256sum </mnt/file')
      expect(sum.split(' ')[0]).toBe(sha256(content))
      expect(await shell(guest, 'cat /mnt/sub/deep')).toBe('deep')
    })
  })

  describe('read and write', () => {
    test.override('guestOptions', {
      kernel,
      fork: 'none',
      devices: [{ type: 'virtio-9p', tag: 'share', path: shared }],
    })

    test('files are made, written, renamed, linked and removed, and found by the next mount', async ({
      guest,
    }) => {
      await shell(
        guest,
        `${mount(',msize=131072')} && head -c 700001 /dev/urandom >/noise && cp /noise new && sync && mkdir d &&
        mv new d/moved && ln d/moved hard && ln -s d/moved soft && chmod 600 hard && cmp soft /noise && cd / && umount /mnt`,
      )
      const seen = await shell(
        guest,
        `${mount()} && cmp hard /noise && cmp d/moved /noise && stat -c '%a %h %s' hard && readlink soft`,
      )
      expect(seen).toBe('600 2 700001\nd/moved')
      await shell(
        guest,
        'cd /mnt && truncate -s 10 hard && [ $(stat -c %s d/moved) = 10 ] && rm -r d hard soft && ! ls d',
      )
      // A copy in the lab: what the guest does is its own.
      expect(await shell(guest, 'cd /mnt && rm file && ls')).not.toContain('file')
    })

    test('what would reach outside is refused', async ({ guest }) => {
      await shell(guest, mount())
      const device = await guest.exec(['sh', '-c', 'mknod /mnt/null c 1 3'])
      expect(device.status).not.toBe(0)
      const owner = await guest.exec(['sh', '-c', 'chown 4242 /mnt/file'])
      expect(owner.stderr).toContain('not permitted')
      expect(
        await shell(guest, 'cp /bin/busybox /mnt/suid && chmod 4755 /mnt/suid && stat -c %a /mnt/suid'),
      ).toBe('755')
    })
  })
})
