/**
 * A program: `node src/matrix/release/pack.ts FOLDER KERNEL` puts this very release's VMM, agent and Node into a folder, with
 * a guest of that kernel, to be run on some host later (main.ts). A newer kvitest calls it of an older one, so what it takes
 * and makes stays as it is: RELEASE_FORMAT.
 */
import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { bootImage } from '../../image/boot-image.ts'
import { buildInitramfs, modulesFor } from '../../image/initramfs.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { KvitestError } from '../../native/error.ts'
import { smokeFiles, smokeModules, smokeScript } from '../tools/smoke.ts'
import { putEntries, vmmEntries } from '../vmm-files.ts'
import { guestFiles, guestFolder, type PackedGuest, RELEASE_FORMAT } from './place.ts'

async function pack(root: string, kernelName: string): Promise<void> {
  await putEntries(root, await vmmEntries('src/matrix/release/main.ts'))
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
