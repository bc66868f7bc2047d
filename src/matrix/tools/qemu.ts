/** QEMU of Debian: boots a guest kernel with KVM or TCG, in which a smoke script prints TAP. */
import { existsSync } from 'node:fs'
import { copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { copyData, copyPrograms, fetchPackageTree } from '../../image/debian-closure.ts'
import { textHash } from '../../image/hash.ts'
import { staticBusybox } from '../../image/initramfs.ts'
import { writeNewc } from '../../image/newc.ts'
import { makePack } from '../../image/pack.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { cpusOf, defaultSetup, mebibytesOf, needOf, type ToolSetup, takesOnly } from '../machine.ts'
import { guestResults } from '../outcome.ts'
import type { PreparedTool, Tool } from '../tool.ts'
import { smokeInitramfs } from './smoke.ts'

export interface QemuOptions {
  /** `7.2` */
  version: string
  /** Suite of Debian that serves it; default this machine's own. */
  suite?: string
  /** Milliseconds until the guest must have switched itself off; default 120 s. */
  deadline?: number
}

const firmware = [
  'usr/share/seabios/bios-256k.bin',
  'usr/share/qemu/kvmvapic.bin',
  'usr/share/qemu/linuxboot_dma.bin',
  'usr/share/qemu/pvh.bin',
]

/** Results go to the second serial port: no message of the kernel can get between them. */
const guestOf = { tty: 'ttyS1', end: 'poweroff' } as const

/** The console comes while the guest runs: QEMU writes to no socket, which standard error may be. */
const withConsole = `
/bin/busybox mkfifo /tmp/console
/bin/busybox cat /tmp/console >&2 &
"$@"
status=$?
# A writer, for a QEMU that ended before it was one.
exec 4<>/tmp/console
exec 4>&-
wait
exit $status
`

/** Debian has it as a module of QEMU, where it is not built in. */
const tcgModule = 'usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so'

const commandLine = ({ accelerator, machine }: ToolSetup): string[] => [
  ...['/bin/busybox', 'sh', '-c', withConsole, 'qemu'],
  '/usr/bin/qemu-system-x86_64',
  ...['-accel', accelerator, '-cpu', accelerator === 'kvm' ? 'host' : 'max'],
  ...['-smp', String(cpusOf(machine)), '-m', `${mebibytesOf(machine)}M`],
  ...(machine.type === undefined ? [] : ['-M', machine.type]),
  ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-nic', 'none'],
  ...['-device', 'virtio-rng-pci'],
  ...['-kernel', '/guest/kernel', '-initrd', '/guest/initramfs'],
  ...['-append', 'console=ttyS0 panic=-1 printk.time=1'],
  ...['-serial', 'file:/tmp/console', '-serial', 'stdio'],
]

/** QEMU at a version that Debian serves, with its libraries and firmware, and a guest kernel of the matrix. */
export function qemu({ version, suite, deadline = 120_000 }: QemuOptions): Tool {
  const name = `qemu-${version}`
  const prepare = async (guest: string | undefined, setup = defaultSetup): Promise<PreparedTool> => {
    const { accelerator, machine } = setup
    const tree = await fetchPackageTree(
      'qemu-system-x86',
      (one) => one.split(':').at(-1)!.startsWith(version),
      suite,
    )
    const kernel = await resolveKernel(guest)
    const { entries, hash } = await smokeInitramfs(kernel, guestOf, setup)
    const modules = accelerator === 'tcg' && existsSync(join(tree.path, tcgModule)) ? [tcgModule] : []
    const files = textHash([...firmware, ...modules].join(' '))
    const key = `2 ${tree.origin} ${kernel.hash} ${hash} ${files}`
    const pack = await makePack(name, key, async (root) => {
      await copyPrograms(tree.path, ['usr/bin/qemu-system-x86_64', ...modules], root)
      await copyData(tree.path, firmware, root)
      await copyFile(await staticBusybox(), join(root, 'usr/bin/busybox'))
      await mkdir(join(root, 'guest'))
      await copyFile(kernel.image, join(root, 'guest/kernel'))
      await writeNewc(join(root, 'guest/initramfs'), entries)
      return [tree.origin, `${kernel.name} ${kernel.release}`]
    })
    const argv = commandLine(setup)
    return {
      pack,
      hash: pack.hash,
      version: tree.version,
      need: needOf(machine),
      all: async ({ programs }) => guestResults(await programs.run({ argv, deadline }), deadline),
    }
  }
  return {
    name,
    takesGuest: true,
    accelerators: ['kvm', 'tcg'],
    need: needOf({}),
    refusesMachine: takesOnly('cpus', 'memory', 'type'),
    prepare,
  }
}
