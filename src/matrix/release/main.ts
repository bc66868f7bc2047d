/** A program, in the pack of a release: boots the guest that lies beside it on this machine's KVM and runs its script. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { bootFiles } from '../../guest/boot-files.ts'
import { GuestError } from '../../guest/error.ts'
import { LocalHost } from '../../host/local.ts'
import { guestFiles, guestFolder, type PackedGuest } from './place.ts'

const file = (name: string) => join('/', guestFolder, name)
const about: PackedGuest = JSON.parse(await readFile(file(guestFiles.about), 'utf8'))
const script = await readFile(file(guestFiles.script), 'utf8')
const timeout = Number(process.argv[2] ?? 60_000)

let status = 1
const host = await LocalHost.open()
try {
  const guest = await bootFiles(host, {
    kernel: { name: about.kernel, release: about.release },
    image: file(guestFiles.image),
    initramfs: file(guestFiles.initramfs),
    devices: [{ type: 'virtio-rng' }],
    bootTimeout: timeout,
  })
  const ran = await guest.run(script, { timeout })
  process.stdout.write(ran.stdout)
  const end = await guest.stop()
  process.stderr.write(`${guest.console.text()}\n${ran.stderr}\nkvitest: ${end.verdict}: ${end.reason}\n`)
  if (['pass', 'fail'].includes(end.verdict) && !ran.timedOut) status = ran.status ?? 1
} catch (error) {
  if (!(error instanceof GuestError)) throw error
  process.stderr.write(`${error.console}\nkvitest: ${error.end.verdict}: ${error.end.reason}\n`)
} finally {
  await host.close()
}
process.exitCode = status
