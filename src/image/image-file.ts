import { type FileHandle, open } from 'node:fs/promises'
import { KvitestError } from '../native/error.ts'

/** What the head of a kernel image says about it. */
export interface ImageFile {
  format: 'bzimage' | 'elf'
  /** uname -r */
  release: string
  /** Bytes from the start of the file to the compressed vmlinux; only of a bzImage. */
  payloadOffset?: number
  payloadLength?: number
}

// Offsets of the x86 boot protocol's setup header (Documentation/arch/x86/boot.rst).
const setupSects = 0x1f1
const bootFlag = 0x1fe
const headerMagic = 0x202
const protocolVersion = 0x206
const kernelVersion = 0x20e
const payloadOffset = 0x248
const payloadLength = 0x24c
const headerEnd = 0x268

const useAnImage = 'give a bzImage (vmlinuz), an ELF vmlinux or a kernel build tree'

function notAKernel(path: string, detail: string): KvitestError {
  return new KvitestError('read the kernel', `${path}: ${detail}`, { code: 'ENOEXEC', hint: useAnImage })
}

function truncated(path: string, size: number, need: number): KvitestError {
  return new KvitestError('read the kernel', `${path}: truncated: ${size} bytes of at least ${need}`, {
    code: 'ENOEXEC',
    hint: 'copy or build it again',
  })
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  const { bytesRead } = await file.read(buffer, 0, length, position)
  return buffer.subarray(0, bytesRead)
}

async function probeBzImage(path: string, file: FileHandle, size: number, head: Buffer): Promise<ImageFile> {
  if (head.length < headerEnd) throw truncated(path, size, headerEnd)
  const protocol = head.readUInt16LE(protocolVersion)
  if (protocol < 0x20c) {
    throw notAKernel(path, `boot protocol 0x${protocol.toString(16)} is too old for a 64-bit entry`)
  }
  // Zero stands for four, says the protocol.
  const setupSize = ((head.readUInt8(setupSects) || 4) + 1) * 512
  const payload = {
    payloadOffset: setupSize + head.readUInt32LE(payloadOffset),
    payloadLength: head.readUInt32LE(payloadLength),
  }
  const end = payload.payloadOffset + payload.payloadLength
  if (size < end) throw truncated(path, size, end)
  const versionAt = head.readUInt16LE(kernelVersion) + 0x200
  if (head.readUInt16LE(kernelVersion) === 0 || versionAt >= setupSize) {
    throw notAKernel(path, 'its setup header carries no version string')
  }
  const text = (await readAt(file, versionAt, 256)).toString('latin1')
  const release = text.split('\0', 1)[0]?.split(' ', 1)[0]
  if (!release) throw notAKernel(path, 'its setup header carries no version string')
  return { format: 'bzimage', release, ...payload }
}

const banner = Buffer.from('Linux version ')

/** Every kernel carries its own banner `Linux version RELEASE (builder@...` in read-only data. */
async function elfRelease(file: FileHandle, size: number): Promise<string | undefined> {
  const step = 8 << 20
  const overlap = 256
  for (let position = 0; position < size; position += step) {
    const block = await readAt(file, position, step + overlap)
    for (let at = block.indexOf(banner); at >= 0; at = block.indexOf(banner, at + 1)) {
      const text = block.toString('latin1', at + banner.length, at + banner.length + 200)
      const match = /^(\d+\.\d+[^\s%]*) \(/.exec(text)
      if (match) return match[1]
    }
  }
  return undefined
}

async function probeElf(path: string, file: FileHandle, size: number, head: Buffer): Promise<ImageFile> {
  if (head.length < 64) throw truncated(path, size, 64)
  if (head.readUInt8(4) !== 2 || head.readUInt16LE(18) !== 62)
    throw notAKernel(path, 'not an x86-64 ELF file')
  const tableAt = Number(head.readBigUInt64LE(32))
  const entrySize = head.readUInt16LE(54)
  const count = head.readUInt16LE(56)
  if (entrySize < 56 || count === 0) throw notAKernel(path, 'an ELF file without program headers')
  if (tableAt + entrySize * count > size) throw truncated(path, size, tableAt + entrySize * count)
  const table = await readAt(file, tableAt, entrySize * count)
  for (let i = 0; i < count; i++) {
    const end = table.readBigUInt64LE(i * entrySize + 8) + table.readBigUInt64LE(i * entrySize + 32)
    if (end > BigInt(size)) throw truncated(path, size, Number(end))
  }
  const release = await elfRelease(file, size)
  if (release === undefined) throw notAKernel(path, 'an ELF file, but no Linux kernel')
  return { format: 'elf', release }
}

/** Reads what a kernel image is; rejects with one clear line for everything that is none or is cut short. */
export async function probeImage(path: string): Promise<ImageFile> {
  let file: FileHandle
  try {
    file = await open(path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const detail = code === 'ENOENT' ? 'no such file' : code === 'EACCES' ? 'permission denied' : String(code)
    throw new KvitestError('read the kernel', `${path}: ${detail}`, { code, hint: useAnImage, cause: error })
  }
  try {
    const stat = await file.stat()
    if (!stat.isFile()) throw notAKernel(path, 'not a regular file')
    const size = stat.size
    const head = await readAt(file, 0, headerEnd)
    if (head.length === 0) throw notAKernel(path, 'an empty file')
    if (head.subarray(0, 4).equals(Buffer.from('\x7fELF', 'latin1')))
      return await probeElf(path, file, size, head)
    const isBoot = head.length >= headerMagic + 4 && head.readUInt16LE(bootFlag) === 0xaa55
    if (isBoot && head.toString('latin1', headerMagic, headerMagic + 4) === 'HdrS') {
      return await probeBzImage(path, file, size, head)
    }
    throw notAKernel(path, 'not a kernel image')
  } finally {
    await file.close()
  }
}
