import { builtFile, busyboxEntries, entriesHash, moduleEntries, modulesFor } from '../../image/initramfs.ts'
import type { KernelInfo } from '../../image/kernel.ts'
import { loadOrder } from '../../image/modules.ts'
import type { NewcEntry } from '../../image/newc.ts'
import { defaultSetup, type GuestMachine, memoryOf, type ToolSetup } from '../machine.ts'

/**
 * What any VMM must make true of any guest, as a part of a shell script that prints TAP: the same points whoever boots
 * the guest. The machine has a PCI bus and a virtio device; what the setup asks for beyond is a point each.
 */
export function smokeScript(release: string, setup: ToolSetup = defaultSetup): string {
  return `n=0
smoke() {
  n=$((n + 1))
  name=$1
  shift
  if said=$("$@" 2>&1); then echo "ok $n - $name"; else echo "# $said"; echo "not ok $n - $name"; fi
}
sees() { grep -q "$1" "$2" || { head -c 400 "$2"; false; }; }
smoke "the kernel is the one that was asked for" test "$(uname -r)" = "${release}"
smoke "the CPU says that there is a hypervisor" sees '\\bhypervisor\\b' /proc/cpuinfo
${setup.accelerator === 'kvm' ? kvmClock : noKvm}
smoke "the clock goes on while the guest sleeps" sh -c 'a=$(cut -d. -f1 /proc/uptime); sleep 2; b=$(cut -d. -f1 /proc/uptime); test $((b - a)) -ge 1'
smoke "interrupts of the timer come" sh -c 'grep -q "LOC:  *[1-9]" /proc/interrupts'
smoke "there is a virtio device on PCI" sh -c 'grep -q 0x1af4 /sys/bus/pci/devices/*/vendor'
${machinePoints(setup.machine).join('')}smoke "memory holds what was written" sh -c 'head -c 16777216 /dev/urandom >/tmp/a; cp /tmp/a /tmp/b; cmp /tmp/a /tmp/b'
n=$((n + 1))
if fingerprint >/tmp/fingerprint; then
  gzip -9 </tmp/fingerprint | base64 | sed 's/^/# fingerprint /'
  echo "ok $n - fingerprint"
else
  echo "not ok $n - fingerprint"
fi
echo "1..$n"
`
}

const clocks = '/sys/devices/system/clocksource/clocksource0/available_clocksource'
const kvmClock = `smoke "kvm-clock is a clock source" sees kvm-clock ${clocks}`
const noKvm = `smoke "no clock source is KVM's" sh -c '! grep kvm-clock ${clocks}'`

/** A point for each thing that was asked for. */
function machinePoints(machine: GuestMachine): string[] {
  const { cpus, memory, transport } = machine
  const points: string[] = []
  if (cpus !== undefined) {
    points.push(`smoke "the guest has ${cpus} CPUs" test "$(grep -c ^processor /proc/cpuinfo)" = ${cpus}\n`)
  }
  if (memory !== undefined) {
    // The kernel has a part of it for itself.
    const kibibytes = memoryOf(machine) >> 10
    points.push(`total=$(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)
smoke "the guest has ${kibibytes >> 10} MiB" test "$total" -le ${kibibytes} -a "$total" -ge ${Math.round(kibibytes * 0.7)}\n`)
  }
  if (transport === 'mmio') {
    points.push(
      `smoke "there is a virtio device on MMIO" ls -d /sys/bus/platform/drivers/virtio-mmio/*/virtio*\n`,
    )
  }
  return points
}

/** What the script wants in the guest beside busybox: guest path -> file on this machine. */
export async function smokeFiles(): Promise<Record<string, string>> {
  return { '/bin/fingerprint': await builtFile('programs/fingerprint') }
}

/** Modules it likes to have: the MSRs of a guest are read through a device. */
export const smokeModules = ['msr?']

/** Where a VMM that is not ours has the guest's results, and how its guest ends. */
export interface SmokeGuest {
  /** Serial port that the script prints to; the one of the kernel's log, where the VMM has no second one. */
  tty: 'ttyS0' | 'ttyS1'
  /** What ends the machine: ACPI's power button, or a reset, upon which small VMMs end. */
  end: 'poweroff' | 'reboot'
}

function init(release: string, { tty, end }: SmokeGuest, setup: ToolSetup): string {
  return `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /etc/kvitest/modules); do insmod $module; done
exec </dev/null >/dev/${tty} 2>&1
stty -F /dev/${tty} -opost
${smokeScript(release, setup)}
# Who closes it waits until all is sent; what is in its buffer when the machine ends is lost.
exec >/dev/null 2>&1
sync
${end} -f
`
}

/** An initramfs whose /init runs the script and ends the machine. */
export async function smokeInitramfs(
  kernel: KernelInfo,
  guest: SmokeGuest,
  setup: ToolSetup,
): Promise<{ entries: NewcEntry[]; hash: string }> {
  const modules = await loadOrder(kernel, [...modulesFor([{ type: 'virtio-rng' }]), ...smokeModules])
  const files = Object.entries(await smokeFiles())
  const entries: NewcEntry[] = [
    ...(await busyboxEntries()),
    ...moduleEntries(kernel.release, modules),
    ...files.map(([path, source]): NewcEntry => ({ type: 'file', path: path.slice(1), mode: 0o755, source })),
    { type: 'file', path: 'init', mode: 0o755, data: Buffer.from(init(kernel.release, guest, setup)) },
    { type: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    ...['proc', 'sys', 'tmp'].map((path): NewcEntry => ({ type: 'directory', path, mode: 0o755 })),
  ]
  return { entries, hash: await entriesHash(entries) }
}
