import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { release } from 'node:os'
import { dirname, join } from 'node:path'
import { cachePath, scratchDirectory } from '../image/cache.ts'
import { fileHash, textHash } from '../image/hash.ts'
import { builtFile } from '../image/initramfs.ts'
import type { MachineEnd, MachineSpec } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { HostMachine, MachineHost } from './machine-host.ts'

/** How fast a host's /dev/kvm runs guest code, measured by bare guests. */
export interface Calibration {
  /** Instructions a second in ring 0, of a tight loop. */
  ring0: number
  /** The same in ring 3. */
  ring3: number
  /** Microseconds of one port write that exits to our VMM and back, in ring 0. */
  exit: number
}

/**
 * Below this a ring 0 is emulated. Hardware runs the loop at 1e9 instructions a second and more, TCG in a lab at
 * 1e8 to 1e9; a software KVM interprets it at about 1e6.
 */
const hardwareSpeed = 3e7

/** Milliseconds that a round must last to be measured by the clock of this process. */
const longEnough = 40

/** A guest that says nothing for this long is given up. */
const patience = 20_000

interface Watched {
  /** Milliseconds at which each byte of the debug channel arrived. */
  marks: { byte: string; at: number }[]
  end: MachineEnd
}

/** Runs a bare guest and keeps when it said what; `isEnough` stops it early. */
async function watch(
  host: Pick<MachineHost, 'createMachine'>,
  spec: MachineSpec,
  isEnough: (marks: Watched['marks']) => boolean,
): Promise<Watched> {
  const marks: Watched['marks'] = []
  const silent = Promise.withResolvers<void>()
  let timer = setTimeout(silent.resolve, patience)
  let machine: HostMachine | undefined
  machine = await host.createMachine(spec, (event) => {
    if (event.type !== 'data' || event.channel !== 'debug') return
    const at = performance.now()
    for (const byte of Buffer.from(event.data).toString('latin1')) marks.push({ byte, at })
    machine?.consumed('debug', event.data.length)
    clearTimeout(timer)
    timer = setTimeout(silent.resolve, patience)
    if (isEnough(marks)) silent.resolve()
  })
  try {
    await machine.start()
    await Promise.race([machine.ended, silent.promise])
  } finally {
    clearTimeout(timer)
    await machine.stop()
  }
  return { marks, end: await machine.ended }
}

/** Instructions a second from the last round of calibrate.S: round k has 1024 << k of them. */
function speed(marks: Watched['marks'], ring: number): number {
  const rounds = marks.filter(({ byte }) => /[<a-t]/.test(byte))
  const last = rounds.at(-1)
  const before = rounds.at(-2)
  if (!last || !before) {
    throw new KvitestError('calibrate the host', `a bare guest in ring ${ring} did not finish a round`, {
      code: 'ETIMEDOUT',
      hint: 'run kvitest doctor',
    })
  }
  const instructions = 1024 * 2 ** (last.byte.charCodeAt(0) - 'a'.charCodeAt(0))
  return Math.round(instructions / ((last.at - before.at) / 1000))
}

function isLongEnough(marks: Watched['marks']): boolean {
  const last = marks.at(-1)
  const before = marks.at(-2)
  return last !== undefined && before !== undefined && last.at - before.at > longEnough
}

function bare(elf: string, ring: 0 | 3): MachineSpec {
  return { name: 'calibrate', cpus: 1, memory: 4 << 20, payload: { kind: 'bare', elf, ring }, devices: [] }
}

/** Measures a host, which takes a fraction of a second. Rejects with a KvitestError when bare guests do not run. */
export async function measure(host: Pick<MachineHost, 'createMachine'>): Promise<Calibration> {
  const loop = await builtFile('guests/calibrate.elf')
  const ring0 = speed((await watch(host, bare(loop, 0), isLongEnough)).marks, 0)
  const ring3 = speed((await watch(host, bare(loop, 3), isLongEnough)).marks, 3)
  const exits = await watch(host, bare(await builtFile('guests/calibrate_exits.elf'), 0), (marks) => {
    const first = marks[0]
    const last = marks.at(-1)
    return first !== undefined && last !== undefined && last.at - first.at > longEnough
  })
  const first = exits.marks[0]
  const last = exits.marks.at(-1)
  const blocks = exits.marks.length - 1
  if (!first || !last || blocks < 1) {
    throw new KvitestError('calibrate the host', `the exit guest stopped early: ${exits.end.detail}`, {
      code: 'EINFRA',
      hint: 'run kvitest doctor',
    })
  }
  // After every 256 silent port writes the guest prints one byte, which is an exit too.
  return { ring0, ring3, exit: ((last.at - first.at) * 1000) / (blocks * 257) }
}

/** Whether a stock kernel gets anywhere on such a host, with the reason in words. */
export function canRunLinux(calibration: Calibration): { yes: boolean; reason: string } {
  const millions = (value: number) => `${(value / 1e6).toPrecision(3)} million instructions a second`
  const yes = calibration.ring0 >= hardwareSpeed
  return {
    yes,
    reason: yes
      ? `ring 0 runs at ${millions(calibration.ring0)}`
      : `ring 0 is emulated: ${millions(calibration.ring0)} against ${millions(calibration.ring3)} in ring 3`,
  }
}

async function storagePath(): Promise<string> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  const addon = await fileHash(await builtFile('kvitest.node'))
  return cachePath('calibration', `${textHash(`${boot} ${release()} ${addon}`).slice(0, 32)}.json`)
}

function isCalibration(value: unknown): value is Calibration {
  const it = value as Calibration | null
  return [it?.ring0, it?.ring3, it?.exit].every((number) => typeof number === 'number' && number > 0)
}

async function store(path: string, calibration: Calibration): Promise<void> {
  const scratch = await scratchDirectory()
  try {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(join(scratch, 'calibration'), JSON.stringify(calibration))
    await rename(join(scratch, 'calibration'), path)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

/** The calibration of this machine's own /dev/kvm; measured once per boot, kernel and build of the addon. */
export async function calibrateLocal(host: Pick<MachineHost, 'createMachine'>): Promise<Calibration> {
  const path = await storagePath()
  const before: unknown = await readFile(path, 'utf8')
    .then(JSON.parse)
    .catch(() => undefined)
  if (isCalibration(before)) return before
  const calibration = await measure(host)
  // A cache that cannot be written costs the measurement again, nothing else.
  await store(path, calibration).catch(() => {})
  return calibration
}
