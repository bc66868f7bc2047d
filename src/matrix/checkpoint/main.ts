/** A program, in the pack of a checkpoint: restores it on this machine's KVM and asks the guest what became of it. TAP. */
import { restoreFile } from '../../guest/boot-files.ts'
import { GuestError } from '../../guest/error.ts'
import { LocalHost } from '../../host/local.ts'
import { KvitestError } from '../../native/error.ts'
import { packed, RESTORED, registersFile } from './place.ts'

const timeout = Number(process.argv[2] ?? 60_000)

/** The program in the guest says it when it is told to end. */
const script = `#!/bin/sh
kill -TERM $(pidof registers)
for i in $(seq 100); do grep -q '^1\\.\\.' ${registersFile} && break; sleep 0.1; done
sed -e '/^holding$/d' -e 's/^1\\.\\..*//' -e 's/ok [0-9]* -/ok -/' ${registersFile}
if a=$(cut -d. -f1 /proc/uptime); sleep 2; b=$(cut -d. -f1 /proc/uptime); test $((b - a)) -ge 1
then echo "ok - its clock goes on"; else echo "not ok - its clock goes on"; fi
`

const say = (text: string) => process.stdout.write(`${text}\n`)
let status = 1
const host = await LocalHost.open()
try {
  await using saved = await restoreFile(host, `/${packed}`)
  const guest = await saved.fork({ bootTimeout: timeout })
  say(`ok - ${RESTORED}`)
  const ran = await guest.run(script, { timeout })
  process.stdout.write(ran.stdout)
  const end = await guest.stop()
  process.stderr.write(`${guest.console.text()}\n${ran.stderr}\nkvitest: ${end.verdict}: ${end.reason}\n`)
  if (['pass', 'fail'].includes(end.verdict) && !ran.timedOut) status = ran.status ?? 1
  say(`1..${1 + ran.stdout.split('\n').filter((line) => /^(not )?ok /.test(line)).length}`)
} catch (error) {
  if (!(error instanceof KvitestError)) throw error
  // One line: what the cell differs by.
  say(`# ${error.message.split('\n')[0]}\nnot ok - ${RESTORED}\n1..1`)
  if (error instanceof GuestError) process.stderr.write(error.console)
} finally {
  await host.close()
}
process.exitCode = status
