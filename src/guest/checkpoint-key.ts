import { textHash } from '../image/hash.ts'
import type { MachineSpec } from '../native/contract.ts'
import { protocolVersion } from './agent/protocol.ts'

/** Of what a place keeps beside a checkpoint: another one is another checkpoint. */
const sidecarVersion = 2

/** sha256 of each file that a guest boots from. */
export interface BootHashes {
  kernel: string
  /** Holds the agent, the modules and the extra files. */
  initramfs: string
}

/**
 * The key of the checkpoint of a guest that was booted so: sha256 of all that makes it what it is. Names and paths are
 * not among it. The addon and the host's kernel are implied by the place that keeps it: they cannot change there.
 */
export function checkpointKey(spec: MachineSpec, hashes: BootHashes): string {
  const { cpus, memory, payload, devices } = spec
  const cmdline = payload.kind === 'linux' ? payload.cmdline : ''
  const { kernel, initramfs } = hashes
  return textHash(
    JSON.stringify([sidecarVersion, protocolVersion, kernel, initramfs, cmdline, cpus, memory, devices]),
  )
}
