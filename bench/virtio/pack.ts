/** What a lab needs for the comparison: both VMMs, the guest that both boot, and Node, which drives both. */
import { copyFile, mkdir, readFile, realpath, writeFile } from 'node:fs/promises'
import { stripTypeScriptTypes } from 'node:module'
import { basename, join } from 'node:path'
import { bootImage } from '../../src/image/boot-image.ts'
import { runCommand } from '../../src/image/command.ts'
import { copyData, copyPrograms, fetchPackageTree } from '../../src/image/debian-closure.ts'
import { fileHash, textHash } from '../../src/image/hash.ts'
import {
  builtFile,
  busyboxEntries,
  entriesHash,
  moduleEntries,
  staticBusybox,
} from '../../src/image/initramfs.ts'
import { loadOrder } from '../../src/image/modules.ts'
import { type NewcEntry, writeNewc } from '../../src/image/newc.ts'
import { makePack, type Pack } from '../../src/image/pack.ts'
import { resolveKernel } from '../../src/image/resolve.ts'

const here = import.meta.dirname
const firmware = ['bios-256k.bin', 'kvmvapic.bin', 'linuxboot_dma.bin', 'pvh.bin']
const guestModules = [
  ...['virtio_pci', 'virtio_blk', 'virtio_net', 'virtio_console', 'virtio_rng'],
  'vmw_vsock_virtio_transport',
]

/** Shared libraries of this machine that a program of this machine loads. */
async function librariesOf(program: string): Promise<string[]> {
  const { stdout } = await runCommand(['ldd', program], { package: 'libc-bin' })
  return [...stdout.toString().matchAll(/=>\s+(\/\S+)/g)].map(([, path]) => path!)
}

export async function virtioBenchPack(labKernel: string, guestKernel: string): Promise<Pack> {
  const tree = await fetchPackageTree('qemu-system-x86', (one) => one.split(':').at(-1)!.startsWith('7.2'))
  const guest = await resolveKernel(guestKernel)
  const lab = await resolveKernel(labKernel)
  const image = await bootImage(guest)
  const program = await builtFile('programs/virtio_bench')
  const addon = await builtFile('kvitest.node')
  const side = join(here, 'side.ts')
  const entries: NewcEntry[] = [
    ...(await busyboxEntries()),
    { type: 'file', path: 'init', mode: 0o755, source: join(here, 'init.sh') },
    { type: 'file', path: 'bin/virtio_bench', mode: 0o755, source: program },
    { type: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    ...['proc', 'sys', 'tmp'].map((path): NewcEntry => ({ type: 'directory', path, mode: 0o755 })),
    ...moduleEntries(guest.release, await loadOrder(guest, guestModules)),
  ]
  const vhost = await loadOrder(lab, ['vhost_vsock'])
  const parts = [
    tree.origin,
    guest.hash,
    lab.hash,
    await entriesHash(entries),
    await fileHash(addon),
    await fileHash(side),
  ]
  return makePack('virtio-bench', `1 ${process.version} ${textHash(parts.join(' '))}`, async (root) => {
    await copyPrograms(tree.path, ['usr/bin/qemu-system-x86_64'], root)
    await copyData(
      tree.path,
      firmware.map((name) => `usr/share/${name === 'bios-256k.bin' ? 'seabios' : 'qemu'}/${name}`),
      root,
    )
    await copyFile(await staticBusybox(), join(root, 'usr/bin/busybox'))
    await copyFile(program, join(root, 'usr/bin/virtio_bench'))
    await copyFile(process.execPath, join(root, 'usr/bin/node'))
    await copyFile(addon, join(root, 'kvitest.node'))
    for (const library of [...(await librariesOf(process.execPath)), ...(await librariesOf(addon))]) {
      await copyFile(await realpath(library), join(root, 'usr/lib/x86_64-linux-gnu', basename(library)))
    }
    await writeFile(join(root, 'side.mjs'), stripTypeScriptTypes(await readFile(side, 'utf8')))
    await mkdir(join(root, 'guest'))
    await copyFile(image, join(root, 'guest/vmlinux'))
    await writeNewc(join(root, 'guest/initramfs'), entries)
    await mkdir(join(root, 'modules'))
    for (const [index, module] of vhost.entries()) {
      await writeFile(
        join(root, 'modules', `${String(index).padStart(2, '0')}-${module.name}.ko`),
        module.data,
      )
    }
    return [tree.origin, `${guest.name} ${guest.release}`]
  })
}
