import type { HostInfo } from '../host/machine-host.ts'
import type { KernelInfo } from '../image/kernel.ts'
import type { MachineSpec, VcpuState } from '../native/contract.ts'
import type { Frame } from './agent/frames.ts'
import { toAgent, toHost } from './agent/protocol.ts'
import { BoundedBytes } from './bounded-bytes.ts'
import type { SerialLog } from './console-log.ts'

/** What a guest's machine was made of. */
export interface MachineAbout {
  spec?: MachineSpec
  /** sha256 of what it booted from. */
  hashes?: { kernel: string; initramfs: string }
}

export interface ScriptRecord {
  name: string
  stdout: string
  stderr: string
}

/** What was seen of one guest. Every text is bounded: its beginning and its end. */
export interface GuestRecord extends MachineAbout {
  name: string
  kernel: KernelInfo
  host: HostInfo
  /** A line each: milliseconds since the machine started (blank for what a fork inherited), and what it said. */
  console: string
  /** A line each frame of the agent's protocol. */
  agent: string
  scripts: ScriptRecord[]
  /** The kernel's whole log, of a guest that ended badly and could be asked. */
  dmesg?: string
  /** As they were looked at last. */
  vcpus: readonly VcpuState[]
}

/** Bytes. */
const consoleLimit = 16 << 20
const agentLimit = 256 << 10
const outputLimit = 4 << 20

const frameNames = {
  to: new Map(Object.entries(toAgent).map(([name, type]): [number, string] => [type, name])),
  from: new Map(Object.entries(toHost).map(([name, type]): [number, string] => [type, name])),
}
const maxCommand = 200

/** Gathers a guest's record while it lives. */
export class GuestRecorder {
  readonly #console = new BoundedBytes(consoleLimit)
  readonly #agent = new BoundedBytes(agentLimit)
  readonly #scripts: { name: string; stdout: BoundedBytes; stderr: BoundedBytes }[] = []
  readonly #started = performance.now()
  #dmesg: string | undefined

  constructor(console: SerialLog) {
    console.onLine((line, milliseconds) => this.#console.push(timed(milliseconds.toFixed(0), line)))
  }

  /** What the console had shown before a fork went on. */
  inherit(text: string): void {
    for (const line of text.replace(/\n$/, '').split('\n')) this.#console.push(timed('', line))
  }

  readonly frame = (direction: 'to' | 'from', { type, id, payload }: Frame): void => {
    const name = frameNames[direction].get(type) ?? `frame ${type}`
    const arrow = direction === 'to' ? '>' : '<'
    // Commands are worth reading; what they print is in files of its own.
    const command = name === 'EXEC' ? ` ${commandOf(payload)}` : ''
    const at = (performance.now() - this.#started).toFixed(0)
    this.#agent.push(timed(at, `${arrow} ${name} ${id}, ${payload.length} bytes${command}`))
  }

  script(name: string): { stdout: BoundedBytes; stderr: BoundedBytes } {
    const record = { name, stdout: new BoundedBytes(outputLimit), stderr: new BoundedBytes(outputLimit) }
    this.#scripts.push(record)
    return record
  }

  keepLog(dmesg: string): void {
    this.#dmesg = dmesg
  }

  record(): Pick<GuestRecord, 'console' | 'agent' | 'scripts' | 'dmesg'> {
    return {
      console: this.#console.toString(),
      agent: this.#agent.toString(),
      scripts: this.#scripts.map(({ name, stdout, stderr }) => ({
        name,
        stdout: stdout.toString(),
        stderr: stderr.toString(),
      })),
      ...(this.#dmesg === undefined ? {} : { dmesg: this.#dmesg }),
    }
  }
}

function timed(time: string, line: string): Buffer {
  return Buffer.from(`${time.padStart(9)}  ${line}\n`)
}

/** The texts in an EXEC frame, for reading only. */
function commandOf(payload: Uint8Array): string {
  const words = Buffer.from(payload)
    .toString('latin1')
    .match(/[\x21-\x7e][\x20-\x7e]+/g)
  return (words ?? []).join(' ').slice(0, maxCommand)
}
