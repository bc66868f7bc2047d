import { readFile, realpath, stat } from 'node:fs/promises'
import { release } from 'node:os'
import { basename, delimiter, join } from 'node:path'
import { fileHash } from '../../image/hash.ts'
import { type QemuOptions, qemuArguments } from './qemu.ts'
import { savedLabKey } from './saved-lab.ts'

/** The QEMU that would run: path, size and time, which an upgrade changes. Empty when there is none. */
async function qemuIdentity(): Promise<string> {
  for (const directory of (process.env.PATH ?? '').split(delimiter)) {
    const path = await realpath(join(directory, 'qemu-system-x86_64')).catch(() => undefined)
    if (path === undefined) continue
    const { size, mtimeMs, ino } = await stat(path)
    return `${path} ${size} ${mtimeMs} ${ino}`
  }
  return ''
}

/**
 * Model of this machine's CPU: the clock of an emulated lab is this one's TSC. A nested lab sees its features and
 * what this machine's kernel makes of them as well.
 */
async function cpuIdentity(accelerator: QemuOptions['accelerator']): Promise<string> {
  const text = await readFile('/proc/cpuinfo', 'utf8')
  const value = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1] ?? ''
  const model = ['vendor_id', 'cpu family', 'model', 'model name', 'stepping'].map(value)
  return [...model, ...(accelerator === 'nested' ? [value('flags'), release()] : [])].join('\n')
}

/** What a saved lab goes by: the same key, the same lab. */
export async function labKey(lab: {
  /** Path of the kernel's image, from which its vmlinux was made. */
  image: string
  initramfs: string
  accelerator: QemuOptions['accelerator']
  cpus: number
  memory: number
  tscKhz: number
}): Promise<string> {
  const { accelerator, cpus, memory } = lab
  return savedLabKey({
    // Named by its content.
    image: basename(lab.initramfs),
    kernel: await fileHash(lab.image),
    qemu: await qemuIdentity(),
    arguments: qemuArguments({ kernel: '', initramfs: '', accelerator, cpus, memory }),
    // Its clock would run at another speed; no two measurements agree to the last digit.
    cpu: `${await cpuIdentity(accelerator)}\n${Math.round(lab.tscKhz / 10_000)}0 MHz`,
  })
}
