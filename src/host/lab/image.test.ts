import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { resolveKernel } from '../../image/resolve.ts'
import { buildLabImage } from './image.ts'

const run = promisify(execFile)

test.for(['debian:6.12-cloud', 'debian:6.1-cloud'])(
  "the image of %s holds Node, the addon, the server as JavaScript and that kernel's kvm",
  async (name) => {
    const kernel = await resolveKernel(name)

    const path = await buildLabImage(kernel)

    const { stdout } = await run('sh', ['-c', 'busybox cpio -t < "$0"', path], { maxBuffer: 1 << 24 })
    const members = stdout.split('\n')
    expect(members).toEqual(
      expect.arrayContaining([
        'init',
        'bin/node',
        'lib64/ld-linux-x86-64.so.2',
        'kvitest/build/Release/kvitest.node',
        'kvitest/src/host/lab/server.js',
        'kvitest/src/native/addon.js',
        'kvitest/node_modules/birpc/package.json',
        `lib/modules/${kernel.release}/kernel/arch/x86/kvm/kvm-amd.ko`,
        `lib/modules/${kernel.release}/kernel/arch/x86/kvm/kvm-intel.ko`,
      ]),
    )
    expect(members.filter((member) => member.endsWith('.ts'))).toEqual([])
    expect(await buildLabImage(kernel)).toBe(path)
  },
)
