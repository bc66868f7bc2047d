import { copyFile, mkdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { staticBusybox } from '../../../image/initramfs.ts'
import { makePack, type Pack } from '../../../image/pack.ts'

/** busybox alone, as the pack of a tool. */
export function busyboxPack(): Promise<Pack> {
  return makePack('busybox', 'busybox, sh', async (root) => {
    await mkdir(join(root, 'bin'))
    await copyFile(await staticBusybox(), join(root, 'bin/busybox'))
    for (const name of ['sh', 'sleep', 'setsid']) await symlink('busybox', join(root, 'bin', name))
    return ['busybox-static']
  })
}
