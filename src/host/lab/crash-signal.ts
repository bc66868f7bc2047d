import { constants } from 'node:os'
import { serverEnd } from './image.ts'

/** What a bug of a program ends it by (signal(7)); SIGKILL is somebody else's doing, such as the OOM killer's. */
const crashes = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGSYS', 'SIGTRAP'] as const

/** The signal by which the server in a lab, and the VMM in it, crashed, as the lab's console says. */
export function crashSignal(console: string): string | undefined {
  const [, status] = new RegExp(`^${serverEnd} (\\d+)\\s*$`, 'm').exec(console) ?? []
  return crashes.find((name) => constants.signals[name] === Number(status) - 128)
}
