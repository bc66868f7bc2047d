import { open, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { gunzip, zstdDecompress } from 'node:zlib'
import { KvitestError } from '../native/error.ts'
import { cached, prune } from './cache.ts'
import { complaint, runCommand } from './command.ts'
import { fileHash } from './hash.ts'
import { probeImage } from './image-file.ts'

const gunzipAsync = promisify(gunzip)
const zstdAsync = promisify(zstdDecompress)

interface Compression {
  name: string
  magic: Buffer
  decompress(data: Buffer): Promise<Buffer>
}

function byCommand(argv: string[], name: string): (data: Buffer) => Promise<Buffer> {
  return async (data) => {
    const result = await runCommand(argv, { input: data, package: name })
    if (result.status !== 0) throw new Error(complaint(result))
    return result.stdout
  }
}

const compressions: Compression[] = [
  // The "legacy" frame, the only one that the kernel's own decompressor reads.
  { name: 'LZ4', magic: Buffer.from('02214c18', 'hex'), decompress: byCommand(['lz4', '-dcq'], 'lz4') },
  { name: 'ZSTD', magic: Buffer.from('28b52ffd', 'hex'), decompress: (data) => zstdAsync(data) },
  {
    name: 'XZ',
    magic: Buffer.from('fd377a585a00', 'hex'),
    decompress: byCommand(['xz', '-dcq'], 'xz-utils'),
  },
  { name: 'GZIP', magic: Buffer.from('1f8b08', 'hex'), decompress: (data) => gunzipAsync(data) },
]

async function readPayload(image: string): Promise<Buffer | undefined> {
  const probe = await probeImage(image)
  if (probe.payloadOffset === undefined || probe.payloadLength === undefined) return undefined
  const file = await open(image)
  try {
    const payload = Buffer.alloc(probe.payloadLength)
    await file.read(payload, 0, payload.length, probe.payloadOffset)
    return payload
  } finally {
    await file.close()
  }
}

async function decompress(image: string, payload: Buffer): Promise<Buffer> {
  if (payload.subarray(0, 4).equals(Buffer.from('\x7fELF', 'latin1'))) return payload
  const compression = compressions.find(({ magic }) => payload.subarray(0, magic.length).equals(magic))
  if (!compression) {
    throw new KvitestError(
      'extract vmlinux',
      `${image}: compressed with something other than LZ4, ZSTD, XZ or GZIP`,
      {
        code: 'ENOTSUP',
        hint: 'boot the bzImage itself, or give the vmlinux of the build',
      },
    )
  }
  // The kernel build appends the uncompressed size; only gzip has it within its own format.
  const size = payload.readUInt32LE(payload.length - 4)
  const data = compression.name === 'GZIP' ? payload : payload.subarray(0, -4)
  let elf: Buffer
  try {
    elf = await compression.decompress(data)
  } catch (error) {
    if (error instanceof KvitestError) throw error
    throw new KvitestError(
      'extract vmlinux',
      `${image}: broken ${compression.name} payload: ${(error as Error).message}`,
      {
        code: 'EILSEQ',
        hint: 'fetch or build the kernel again',
        cause: error,
      },
    )
  }
  if (elf.length !== size) {
    throw new KvitestError(
      'extract vmlinux',
      `${image}: ${elf.length} bytes came out where ${size} were promised`,
      {
        code: 'EILSEQ',
        hint: 'fetch or build the kernel again',
      },
    )
  }
  return elf
}

/**
 * The ELF vmlinux inside a bzImage, as a file in the cache: booted through its PVH note it needs no decompression
 * and its addresses repeat. An image that is an ELF file already is its own answer.
 */
export async function extractVmlinux(image: string): Promise<string> {
  const payload = await readPayload(image)
  if (payload === undefined) return image
  const path = await cached(['vmlinux', `${await fileHash(image)}.elf`], async (target) => {
    await writeFile(target, await decompress(image, payload))
  })
  await prune('vmlinux', 16)
  return path
}
