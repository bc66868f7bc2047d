/** `kvitest plant`: runs a command whose KVM misbehaves. */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { plantArgv } from '../matrix/plant.ts'
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest plant PLANT... -- COMMAND [ARGUMENT...]

Runs a command, and all that it starts, with a KVM that misbehaves: to see that a test notices.

  refuse=IOCTL:ERRNO       an ioctl is refused and not made: refuse=KVM_SET_DEBUGREGS:ENOTTY
  errno=IOCTL:FROM:TO      what failed with FROM fails with TO: errno=KVM_RUN:EINTR:ENOMEM
  capability-gone=CAP      KVM_CHECK_EXTENSION of it answers 0
  msr-gone=INDEX           KVM_GET_MSR_INDEX_LIST does not have it
  cpuid-limit=ENTRIES      KVM_SET_CPUID2 of more is E2BIG
  cpuid-after-run          KVM_SET_CPUID2 on a vCPU that ran is EINVAL, whatever the table
  xsave-known=MASK         KVM_SET_XSAVE of a state that has other components is EINVAL
  xsave-lost=MASK          KVM_SET_XSAVE does as if these components were not there
  thread-of-vm             KVM_CREATE_VM leaves a thread in the process`

/** Returns the command's exit status. */
export async function plant(argv: string[]): Promise<number> {
  const end = argv.indexOf('--')
  const [wanted, command] = end < 0 ? [argv, []] : [argv.slice(0, end), argv.slice(end + 1)]
  if (wanted.includes('--help') || wanted.includes('-h')) {
    console.log(usage)
    return 0
  }
  if (command.length === 0 || wanted.length === 0) {
    throw new KvitestError('kvitest plant', command.length === 0 ? 'no command' : 'nothing to plant', {
      code: 'EINVAL',
      hint: 'kvitest plant errno=KVM_RUN:EINTR:ENOMEM -- COMMAND',
      infra: false,
    })
  }
  const [shim, ...rest] = [...plantArgv(wanted), ...command]
  const child = spawn(shim!, rest, { stdio: 'inherit' })
  // Of the terminal they come to the command too; this process waits for what it makes of them.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status, signal) => resolve(status ?? 128 + (signal ? constants.signals[signal] : 0)))
  })
}
