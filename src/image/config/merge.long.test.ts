import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runCommand } from '../command.ts'
import { fetchFiles } from '../debian-files.ts'
import { resolveKernel } from '../resolve.ts'
import { checkConfig, renderFragment } from './check.ts'
import { parseConfig } from './dot-config.ts'
import { purposes } from './requirements.ts'

// Here, because the kernel's own script comes with 150 MB of its source.
test("the kernel's own merge_config.sh takes our fragments", async () => {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-merge-'))
  try {
    const source = await fetchFiles('linux-source-6.12', {
      packages: [{ package: 'linux-source-6.12' }],
      members: ['./usr/src/linux-source-6.12.tar.xz'],
    })
    const script = 'linux-source-6.12/scripts/kconfig/merge_config.sh'
    const archive = join(source, 'usr/src/linux-source-6.12.tar.xz')
    const unpacked = await runCommand(['tar', '-xf', archive, '-C', place, script])
    expect(unpacked).toMatchObject({ status: 0, stderr: '' })
    const kernel = await resolveKernel('debian:6.12-cloud')
    const text = await readFile(kernel.config!, 'utf8')
    const poor = text.replace(/^CONFIG_(VIRTIO_PCI|KVM|KVM_AMD|PVH|BUG|DEVTMPFS)=.*\n/gm, '')
    await writeFile(join(place, 'poor'), poor)
    const lacks = purposes.flatMap((purpose) => checkConfig(parseConfig(poor, 'poor'), purpose))
    await writeFile(join(place, 'fragment'), renderFragment('poor', lacks))
    await copyFile(join(place, script), join(place, 'merge_config.sh'))

    const result = await runCommand(['sh', 'merge_config.sh', '-m', 'poor', 'fragment'], { cwd: place })

    expect(result.status, result.stderr).toBe(0)
    const merged = parseConfig(await readFile(join(place, '.config'), 'utf8'), 'merged')
    expect(purposes.flatMap((purpose) => checkConfig(merged, purpose))).toEqual([])
  } finally {
    await rm(place, { recursive: true, force: true })
  }
})
