import { readFile } from 'node:fs/promises'
import { builtFile } from '../../image/initramfs.ts'

/** Machine code of one of fixtures/guests/raw, for a vCPU that is set up by hand. */
export interface GuestCode {
  bytes: Uint8Array
  /** Guest-physical address that it must be written to and that it is entered at, in real mode. */
  entry: number
}

/** Address of every flat image: fixtures/guests/raw/real-mode.ld. */
const entry = 0x1000

/** The code of fixtures/guests/raw/NAME.S. Rejects with a KvitestError (ENOENT) when there is none. */
export async function guestCode(name: string): Promise<GuestCode> {
  return { bytes: await readFile(await builtFile(`guests/raw/${name}.bin`)), entry }
}
