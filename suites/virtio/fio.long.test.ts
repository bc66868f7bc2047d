/** fio with checksums over every engine, transport and ring, on both kernels, for longer than npm test has time for. */

import { describe, expect, test } from 'kvitest/test'
import { DEFAULT_KERNELS } from 'kvitest/vitest'

const mebibyte = 1024 * 1024
const engines = {
  psync: '--ioengine=psync --bs=4k',
  libaio: '--ioengine=libaio --iodepth=64 --bssplit=512/30:4k/40:64k/20:1m/10',
  io_uring: '--ioengine=io_uring --iodepth=128 --bs=4k --hipri=0',
  posixaio: '--ioengine=posixaio --iodepth=8 --bs=16k',
  pvsync2: '--ioengine=pvsync2 --bs=1m',
}

for (const kernel of DEFAULT_KERNELS) {
  for (const transport of ['pci', 'mmio'] as const) {
    for (const ring of ['split', 'packed'] as const) {
      describe(`${kernel} ${transport} ${ring}`, () => {
        test.override('guestOptions', {
          kernel,
          cpus: 2,
          packages: ['fio'],
          devices: [
            {
              type: 'virtio-blk',
              name: 'disk0',
              backing: { memory: 128 * mebibyte },
              queues: 2,
              transport,
              ...(ring === 'packed' ? { withFeatures: ['ring_packed'] } : {}),
            },
          ],
        })
        test('two jobs of every engine verify what they wrote', async ({ guest }) => {
          for (const [name, options] of Object.entries(engines)) {
            const command = `fio --name=${name} --filename=/dev/vda --direct=1 --rw=randrw --size=16m --numjobs=2 \
              --offset_increment=64m --verify=sha256 --verify_fatal=1 ${options}`
            const result = await guest.exec(['sh', '-c', command], { timeout: 300_000 })
            expect(result).toExitWith(0)
          }
          const written = await guest.disk('disk0').read(64 * mebibyte, 4096)
          expect(written.some((byte) => byte !== 0)).toBe(true)
        })
      })
    }
  }
}
