import type { KernelInfo } from '../image/kernel.ts'
import { KvitestError } from '../native/error.ts'
import type { AgentSnapshot } from './agent/client.ts'
import { BoundedBytes } from './bounded-bytes.ts'

/** Of the console in a sidecar, in bytes: its beginning and its end. */
const consoleLimit = 256 * 1024

/**
 * What the owner of a fork must know of the guest it goes on from: plain data that survives the structured clone
 * algorithm, taken at exactly the moment of the checkpoint.
 */
export interface GuestSidecar {
  agent: AgentSnapshot
  /** What the serial console had shown. */
  console: string
  /** Ports that the guest had open. */
  openPorts: string[]
  /** Milliseconds from machine start to the agent's greeting, of the guest that was booted. */
  bootTime: number
  kernel: KernelInfo
  /** Name of the guest that was saved. */
  name: string
  cmdline: string
  /** Names this checkpoint among all others: what is true of one fork's addresses is true of its twins'. */
  moment: string
}

export function boundedConsole(text: string): string {
  const bytes = new BoundedBytes(consoleLimit)
  bytes.push(Buffer.from(text))
  return bytes.toString()
}

const encodeBytes = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')

export function encodeSidecar(sidecar: GuestSidecar): Buffer {
  const { agent } = sidecar
  return Buffer.from(JSON.stringify({ ...sidecar, agent: { ...agent, partial: encodeBytes(agent.partial) } }))
}

/** Reads what encodeSidecar() wrote, trusting none of it. Throws EBADMSG. */
export function decodeSidecar(data: Uint8Array): GuestSidecar {
  try {
    const record = asRecord(JSON.parse(Buffer.from(data).toString()))
    const agent = asRecord(record.agent)
    const hello = asRecord(agent.hello)
    const kernel = asRecord(record.kernel)
    return {
      agent: {
        hello: {
          kernelRelease: asText(hello.kernelRelease),
          warnings: asList(hello.warnings).map(asText),
        },
        partial: new Uint8Array(Buffer.from(asText(agent.partial), 'base64')),
        nextId: asCount(agent.nextId),
        inherited: asList(agent.inherited).map(asCount),
      },
      console: asText(record.console),
      openPorts: asList(record.openPorts).map(asText),
      bootTime: asNumber(record.bootTime),
      kernel: {
        name: asText(kernel.name),
        release: asText(kernel.release),
        image: asText(kernel.image),
        hash: asText(kernel.hash),
      },
      name: asText(record.name),
      cmdline: asText(record.cmdline),
      moment: asText(record.moment),
    }
  } catch (cause) {
    throw new KvitestError('read a checkpoint', 'what it says of its guest makes no sense', {
      code: 'EBADMSG',
      hint: 'save it again with this version of kvitest',
      infra: false,
      cause,
    })
  }
}

function asRecord(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new TypeError('no record')
  return value as Record<string, unknown>
}

function asList(value: unknown): unknown[] {
  if (!Array.isArray(value)) throw new TypeError('no list')
  return value
}

function asText(value: unknown): string {
  if (typeof value !== 'string') throw new TypeError('no text')
  return value
}

function asNumber(value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) throw new TypeError('no number')
  return value
}

/** An id of the agent protocol. */
function asCount(value: unknown): number {
  const number = asNumber(value)
  if (!Number.isInteger(number) || number > 0xffff_ffff) throw new TypeError('no id')
  return number
}
