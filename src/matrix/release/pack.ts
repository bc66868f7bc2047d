/**
 * A program: `node src/matrix/release/pack.ts FOLDER KERNEL` puts this very release's VMM, agent and Node into a folder, with
 * a guest of that kernel, to be run on some host later (main.ts). A newer kvitest calls it of an older one, so what it takes
 * and makes stays as it is: RELEASE_FORMAT.
 */
import { chmod, copyFile, mkdir, readdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { programEntries } from '../../host/lab/image.ts'
import { bootImage } from '../../image/boot-image.ts'
import { buildInitramfs, builtFile, modulesFor } from '../../image/initramfs.ts'
import type { NewcEntry } from '../../image/newc.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { KvitestError } from '../../native/error.ts'
import { smokeFiles, smokeModules, smokeScript } from '../tools/smoke.ts'
import { guestFiles, guestFolder, type PackedGuest, RELEASE_FORMAT } from './place.ts'

async function put(root: string, entry: NewcEntry): Promise<void> {
  const target = join(root, entry.path)
  if (entry.type !== 'file') return
  await mkdir(dirname(target), { recursive: true })
  if ('source' in entry) await copyFile(entry.source, target)
  else await writeFile(target, entry.data)
  await chmod(target, entry.mode | 0o600)
}

async function pack(root: string, kernelName: string): Promise<void> {
  for (const entry of await programEntries('src/matrix/release/main.ts')) await put(root, entry)
  // The host is measured before the guest starts.
  const bare = await builtFile('guests')
  for (const name of (await readdir(bare)).filter((one) => one.startsWith('calibrate'))) {
    const path = `kvitest/build/Release/guests/${name}`
    await put(root, { type: 'file', path, mode: 0o644, source: join(bare, name) })
  }
  const kernel = await resolveKernel(kernelName)
  const modules = [...modulesFor([{ type: 'virtio-rng' }]), ...smokeModules]
  const initramfs = await buildInitramfs({ kernel, modules, files: await smokeFiles() })
  const folder = join(root, guestFolder)
  await mkdir(folder, { recursive: true })
  await copyFile(await bootImage(kernel), join(folder, guestFiles.image))
  await copyFile(initramfs.path, join(folder, guestFiles.initramfs))
  await writeFile(join(folder, guestFiles.script), `#!/bin/sh\n${smokeScript(kernel.release)}`)
  const about: PackedGuest = { format: RELEASE_FORMAT, kernel: kernelName, release: kernel.release }
  await writeFile(join(folder, guestFiles.about), JSON.stringify(about))
}

try {
  const [root, kernelName] = process.argv.slice(2)
  if (!root || !kernelName)
    throw new KvitestError('pack the VMM', 'no folder or no kernel', { hint: 'give both' })
  await pack(root, kernelName)
} catch (error) {
  console.error(error instanceof KvitestError ? error.message : error)
  process.exitCode = 1
}
