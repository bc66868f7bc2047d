/** A guest on a target of the lab's kernel (vhost-scsi). What a unit holds is a file of the lab, which programs there look at. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ScsiDevice } from '../native/contract.ts'
import { guestKernels } from './testing/guest-kernels.ts'
import { again, inside, type LabSide, openLabSide } from './testing/lab-side.ts'
import type { Guest } from './types.ts'

const wwpn = 'naa.5001405a0b0c0d0e'
const bytes = 8 << 20
const file = '/dev/kvitest-unit'
const target = '/sys/kernel/config/target'
const group = `${target}/vhost/${wwpn}/tpgt_1`

const device: ScsiDevice = {
  type: 'virtio-scsi',
  name: 'scsi0',
  luns: [],
  queues: 2,
  backend: { kind: 'vhost', wwpn },
}

describe.for(guestKernels)('on a lab of %s', (kernel) => {
  let side: LabSide
  let guest: Guest

  beforeAll(async () => {
    side = await openLabSide(kernel)
    await side.lab(
      `head -c ${bytes} /dev/urandom >${file}
       mkdir -p ${target}/core/fileio_0/unit
       echo fd_dev_name=${file},fd_dev_size=${bytes} >${target}/core/fileio_0/unit/control
       echo 1 >${target}/core/fileio_0/unit/enable
       mkdir ${target}/vhost ${target}/vhost/${wwpn} ${group} ${group}/lun/lun_0
       echo -n naa.5001405a0b0c0d0f >${group}/nexus
       ln -s ${target}/core/fileio_0/unit ${group}/lun/lun_0/unit`,
    )
    guest = await side.boot([device])
    await inside(guest, again('[ -b /dev/sda ]'))
  }, 600_000)
  afterAll(async () => {
    await guest?.stop({ force: true })
    await side?.close()
  })

  const ofLab = () => side.lab(`sha256sum <${file}`)
  const ofGuest = () => inside(guest, 'echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/sda')
  const write = () =>
    inside(
      guest,
      `head -c ${bytes} /dev/urandom >/tmp/noise; dd if=/tmp/noise of=/dev/sda bs=256k conv=fsync 2>/dev/null
       sha256sum </tmp/noise`,
    )

  test('it reads what the host wrote, and the host what it wrote', async () => {
    expect(await inside(guest, 'cat /sys/block/sda/device/vendor; cat /sys/block/sda/size')).toMatch(
      new RegExp(`^LIO-ORG *\\n${bytes / 512}$`),
    )
    expect(await ofGuest()).toBe(await ofLab())
    const written = await write()
    expect(await ofLab()).toBe(written)
    expect(await ofGuest()).toBe(written)
  })

  test('a driver that is set up anew has the same units', async () => {
    await inside(
      guest,
      'cd /sys/bus/virtio/drivers/virtio_scsi; d=$(basename $(echo virtio*)); echo $d >unbind; echo $d >bind',
    )
    await inside(guest, again('[ -b /dev/sda ]'))
    expect(await ofGuest()).toBe(await ofLab())
    expect(await write()).toBe(await ofLab())
  })

  test('a checkpoint takes the rings back for a while; forks there are none', async () => {
    await using checkpoint = await guest.checkpoint()
    expect(await write()).toBe(await ofLab())
    await expect(checkpoint.fork()).rejects.toThrow(
      `fork: scsi0 is the target ${wwpn} of its host, whose content no checkpoint holds`,
    )
  })

  test('another guest does not get the target, nor one that is not there', async () => {
    const refusal = (name: string) =>
      `VHOST_SCSI_SET_ENDPOINT: scsi0: the target ${name} of this host (No such device); make it, with a nexus, ` +
      'below /sys/kernel/config/target/vhost; one guest has it at a time'
    await expect(side.boot([device])).rejects.toThrow(refusal(wwpn))
    const absent = 'naa.5001405000000000'
    const other: ScsiDevice = { ...device, backend: { kind: 'vhost', wwpn: absent } }
    await expect(side.boot([other])).rejects.toThrow(refusal(absent))
    expect(await ofGuest()).toBe(await ofLab())
  })

  test('a lab whose kernel has no vhost-scsi says what to load', async () => {
    await guest.stop({ force: true })
    await side.lab(
      `rm ${group}/lun/lun_0/unit
       rmdir ${group}/lun/lun_0 ${group} ${target}/vhost/${wwpn} ${target}/vhost
       rmmod vhost_scsi`,
    )
    await expect(side.boot([device])).rejects.toThrow(
      'open vhost: /dev/vhost-scsi of this host, for scsi0 (No such file or directory); ' +
        'load its module (modprobe vhost_scsi), or give it luns instead of its backend',
    )
  })
})
