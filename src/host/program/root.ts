/** Runs a program in the root of its pack: the same on `local` and in a lab. */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { KvitestError } from '../../native/error.ts'
import type { OutputStream, ProgramEnd, ProgramRequest } from './contract.ts'
import { KernelLog } from './kernel-log.ts'

const defaultOutputLimit = 1 << 20

/** Exit status and mark of a root that could not be set up. */
const brokenStatus = 125
const brokenMark = 'kvitest: set up the root: '

/**
 * The first process of the program's own PID namespace: when it dies, the kernel kills whatever is left. Of this
 * machine the program sees its devices and its kernel, and no file.
 */
const script = `root=$1
shift
broken() { echo "${brokenMark}$*" >&2; exit ${brokenStatus}; }
mount --make-rprivate / 2>/dev/null
mount --bind "$root" "$root" || broken "bind $root"
mount --rbind /dev "$root/dev" || broken /dev
# Named semaphores and shared memory are files there; a lab's devtmpfs has no such folder.
[ -d "$root/dev/shm" ] || mkdir "$root/dev/shm" 2>/dev/null
[ ! -d "$root/dev/shm" ] || mount -t tmpfs tmpfs "$root/dev/shm" || broken /dev/shm
mount -t proc proc "$root/proc" || broken /proc
mount --rbind /sys "$root/sys" || broken /sys
mount -t tmpfs tmpfs "$root/tmp" || broken /tmp
mount -t tmpfs tmpfs "$root/run" || broken /run
mount -o remount,bind,ro "$root" || broken "write-protect $root"
ulimit -c 0
chroot "$root" "$@"
exit $?
`

const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/tmp', LC_ALL: 'C' }

export interface RootOptions {
  /** Directory with the pack's files and its mount points. */
  root: string
  /** In a lab there is busybox and one user; on `local` util-linux, and perhaps no right to do it as ourselves. */
  place: 'local' | 'lab'
}

function namespaces(place: RootOptions['place'], network: ProgramRequest['network']): string[] {
  const own = ['--mount', '--pid', '--ipc', '--uts', ...(network === 'host' ? [] : ['--net']), '-f']
  if (place === 'lab') return ['unshare', ...own]
  const asUser = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']
  // Whoever kills this process kills the program too.
  return ['setpriv', '--pdeathsig', 'KILL', 'unshare', '--kill-child=KILL', ...asUser, ...own]
}

function signalName(number: number): string | undefined {
  return Object.entries(constants.signals).find(([, value]) => value === number)?.[0]
}

export interface RunningProgram {
  /** As ProgramPlace.run() without the output. */
  ended: Promise<ProgramEnd>
  /** With all that it started. */
  kill(): void
}

/** Starts a program; `onOutput` gets no more than the request's limit of each stream. */
export function startProgram(
  { root, place }: RootOptions,
  request: ProgramRequest,
  onOutput: (stream: OutputStream, data: Uint8Array) => void,
): RunningProgram {
  const own = namespaces(place, request.network)
  const [command, ...rest] = [...own, 'sh', '-c', script, 'kvitest', root, ...request.argv]
  const log = KernelLog.open()
  const begun = performance.now()
  const child = spawn(command!, rest, {
    cwd: '/',
    env: { ...environment, ...request.environment },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  const limit = request.outputLimit ?? defaultOutputLimit
  let lost = 0
  let said = ''
  const follow = (stream: OutputStream) => {
    let left = limit
    child[stream]!.on('data', (data: Buffer) => {
      const kept = data.subarray(0, left)
      left -= kept.length
      lost += data.length - kept.length
      if (stream === 'stderr') said = (said + kept.toString()).slice(-4096)
      if (kept.length > 0) onOutput(stream, kept)
    })
  }
  follow('stdout')
  follow('stderr')
  const kill = () => {
    // The first process of its PID namespace is in the group.
    if (child.pid !== undefined && child.exitCode === null) {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // It has just ended.
      }
    }
  }
  let expired = false
  const clock = setTimeout(() => {
    expired = true
    kill()
  }, request.deadline)
  const { promise, resolve, reject } = Promise.withResolvers<ProgramEnd>()
  const fail = (detail: string, code?: string) => {
    const hint = 'a user other than root needs user namespaces (kernel.unprivileged_userns_clone=1)'
    reject(new KvitestError(`run ${request.argv[0]}`, detail, { code, hint }))
  }
  child.on('error', (error: NodeJS.ErrnoException) => {
    clearTimeout(clock)
    log?.close()
    fail(error.message, error.code)
  })
  child.on('close', (status, signal) => {
    clearTimeout(clock)
    const kernelLog = log?.take()
    log?.close()
    const broken = status === brokenStatus ? said.indexOf(brokenMark) : -1
    const isStarted = !/^unshare: /m.test(said) || status !== 1
    if (broken >= 0 || !isStarted) {
      fail(said.trim().replaceAll('\n', ' '), 'EPERM')
      return
    }
    const byStatus = status !== null && status > 128 ? signalName(status - 128) : undefined
    resolve({
      status: signal === null && byStatus === undefined ? status : null,
      signal: signal ?? byStatus ?? null,
      expired,
      duration: performance.now() - begun,
      lost,
      ...(kernelLog ? { kernelLog } : {}),
    })
  })
  return { ended: promise, kill }
}
