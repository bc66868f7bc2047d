import { open } from 'node:fs/promises'
import { KvitestError } from '../native/error.ts'
import type { KernelInfo } from './kernel.ts'
import { extractVmlinux } from './vmlinux.ts'

/** How a guest enters its kernel. */
export type KernelEntry =
  /** `pvh` where the kernel has the note, else `bzimage`. */
  | 'auto'
  /** The vmlinux inside, by its PVH note: no decompressor, no KASLR. */
  | 'pvh'
  /** The bzImage by its 64-bit entry point: decompressor and KASLR run in the guest. */
  | 'bzimage'

const programHeaderNote = 4
/** XEN_ELFNOTE_PHYS32_ENTRY of the PVH boot protocol. */
const notePhys32Entry = 18
const maxNotes = 64 * 1024

/** Whether an ELF64 file carries the PVH entry point's note. */
export async function hasPvhNote(path: string): Promise<boolean> {
  const file = await open(path)
  try {
    const head = Buffer.alloc(64)
    await file.read(head, 0, head.length, 0)
    if (head.toString('latin1', 0, 4) !== '\x7fELF' || head[4] !== 2) return false
    const table = Buffer.alloc(56 * head.readUInt16LE(56))
    await file.read(table, 0, table.length, Number(head.readBigUInt64LE(32)))
    for (let at = 0; at < table.length; at += 56) {
      if (table.readUInt32LE(at) !== programHeaderNote) continue
      const size = Math.min(maxNotes, Number(table.readBigUInt64LE(at + 32)))
      const notes = Buffer.alloc(size)
      await file.read(notes, 0, size, Number(table.readBigUInt64LE(at + 8)))
      if (notesHavePvh(notes)) return true
    }
    return false
  } finally {
    await file.close()
  }
}

function notesHavePvh(notes: Buffer): boolean {
  const aligned = (size: number) => (size + 3) & ~3
  for (let at = 0; at + 12 <= notes.length; ) {
    const nameSize = notes.readUInt32LE(at)
    const isXen = notes.toString('latin1', at + 12, at + 12 + nameSize) === 'Xen\0'
    if (isXen && notes.readUInt32LE(at + 8) === notePhys32Entry) return true
    at += 12 + aligned(nameSize) + aligned(notes.readUInt32LE(at + 4))
  }
  return false
}

/**
 * The file the VMM loads for a kernel. By PVH a guest skips its decompressor: under TCG that halves its boot
 * (docs/performance.md). Rejects with a KvitestError when `pvh` is asked of a kernel that has no such entry.
 */
export async function bootImage(kernel: KernelInfo, entry: KernelEntry = 'auto'): Promise<string> {
  if (entry === 'bzimage') return kernel.image
  let vmlinux: string
  try {
    vmlinux = await extractVmlinux(kernel.image)
  } catch (error) {
    // A compression we do not know is the bzImage's own business.
    if (entry === 'auto' && (error as KvitestError).code === 'ENOTSUP') return kernel.image
    throw error
  }
  if (await hasPvhNote(vmlinux)) return vmlinux
  if (entry === 'auto') return kernel.image
  throw new KvitestError('boot by PVH', `${kernel.image}: the kernel has no PVH entry`, {
    code: 'ENOTSUP',
    hint: 'build it with CONFIG_PVH=y, or boot its bzImage',
    infra: false,
  })
}
