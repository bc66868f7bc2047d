import type { DeviceChange, DeviceSpec } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { Guest } from './types.ts'

/** A device is in the slot behind its place among the machine's devices: the host bridge is in slot 0. */
function pciAddress(index: number): string {
  return `0000:00:${(index + 1).toString(16).padStart(2, '0')}.0`
}

/** `$1` PCI address, `$2` MAC address. */
const setAddress = [
  'for path in /sys/bus/pci/devices/$1/virtio*/net/*; do',
  '  [ -e "$path" ] && exec ip link set "$(basename "$path")" address "$2"',
  'done',
  'echo "no network interface at $1" >&2; exit 1',
].join('\n')

/**
 * Gives the interfaces of a fork their new MAC addresses. The device has them already, but a driver of Linux reads its
 * own when it starts, and the specification has no way to tell it of a change. A guest that cannot is stopped.
 */
export async function renumber(
  guest: Guest,
  devices: readonly DeviceSpec[],
  changes: Record<string, DeviceChange>,
): Promise<void> {
  for (const [index, device] of devices.entries()) {
    const mac = device.type === 'virtio-net' ? changes[device.name]?.mac : undefined
    if (mac === undefined) continue
    const result = await guest.exec(['sh', '-c', setAddress, 'sh', pciAddress(index), mac])
    if (result.status === 0) continue
    await guest.stop({ force: true })
    throw new KvitestError(
      `fork ${guest.name}`,
      `set the MAC address ${mac}: ${result.stderr.trim() || `status ${result.status}`}`,
      { hint: 'the driver of the device has to be loaded when the checkpoint is taken', infra: false },
    )
  }
}
