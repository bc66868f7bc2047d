import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { KvitestError } from '../native/error.ts'
import { decodeSidecar, encodeSidecar, type GuestSidecar } from './sidecar.ts'

/**
 * A checkpoint on disk: what the VMM wrote, the sidecar (JSON), and a trailer of 56 bytes, little-endian:
 *
 *     0  8  magic
 *     8  8  bytes of the VMM's part
 *    16  4  bytes of the sidecar
 *    20  4  format version
 *    24 32  sha256 of everything before it
 */
const magic = 'KVITESTC'
const formatVersion = 1
const trailerSize = 56
const hashSize = 32
const sidecarMax = 4 << 20
const readSize = 1 << 20

/** Adds sidecar and trailer to the file that the VMM wrote at `written`, then gives it its name. */
export async function sealCheckpoint(written: string, sidecar: GuestSidecar, path: string): Promise<void> {
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of createReadStream(written, { highWaterMark: readSize })) {
    hash.update(chunk as Buffer)
    size += (chunk as Buffer).length
  }
  const text = encodeSidecar(sidecar)
  const head = Buffer.alloc(trailerSize - hashSize)
  head.write(magic, 'latin1')
  head.writeBigUInt64LE(BigInt(size), 8)
  head.writeUInt32LE(text.length, 16)
  head.writeUInt32LE(formatVersion, 20)
  const digest = hash.update(text).update(head).digest()
  const file = await open(written, 'a')
  try {
    await file.writeFile(Buffer.concat([text, head, digest]))
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(written, path)
}

/**
 * Checks the whole of a checkpoint on disk and copies the VMM's part to a new file at `target`: what is loaded is what
 * was checked. Rejects with EBADMSG, and no `target` is left, when one bit is not as it was written.
 */
export async function unsealCheckpoint(path: string, target: string): Promise<GuestSidecar> {
  const file = await open(path).catch((error: NodeJS.ErrnoException) => {
    const words = error.code === 'ENOENT' ? 'no such file' : (error.code ?? error.message)
    throw new KvitestError('restore a checkpoint', `${path}: ${words}`, {
      code: error.code,
      infra: false,
      cause: error,
    })
  })
  try {
    return await readSealed(file, path, target)
  } catch (error) {
    await rm(target, { force: true })
    throw error
  } finally {
    await file.close()
  }
}

async function readSealed(file: FileHandle, path: string, target: string): Promise<GuestSidecar> {
  const { size } = await file.stat()
  const trailer = Buffer.alloc(trailerSize)
  const at = size - trailerSize
  if (at < 0) throw refused(path, 'too short for a checkpoint')
  await file.read(trailer, 0, trailerSize, at)
  if (trailer.toString('latin1', 0, magic.length) !== magic) {
    throw refused(path, 'no checkpoint of kvitest, or its end is missing')
  }
  const version = trailer.readUInt32LE(20)
  if (version !== formatVersion) throw refused(path, `format version ${version}, not ${formatVersion}`)
  const sidecarSize = trailer.readUInt32LE(16)
  const nativeSize = trailer.readBigUInt64LE(8)
  if (sidecarSize > sidecarMax || nativeSize + BigInt(sidecarSize) !== BigInt(at)) {
    throw refused(path, 'its parts do not add up to its size')
  }
  const hash = createHash('sha256')
  await copyPart(file, Number(nativeSize), target, hash)
  const text = Buffer.alloc(sidecarSize)
  await file.read(text, 0, sidecarSize, Number(nativeSize))
  const digest = hash
    .update(text)
    .update(trailer.subarray(0, trailerSize - hashSize))
    .digest()
  if (!digest.equals(trailer.subarray(trailerSize - hashSize))) {
    throw refused(path, 'it was changed or damaged after it was saved')
  }
  return decodeSidecar(text)
}

async function copyPart(file: FileHandle, size: number, target: string, hash: Hash): Promise<void> {
  const copy = await open(target, 'wx', 0o600)
  try {
    const buffer = Buffer.alloc(readSize)
    for (let at = 0; at < size; ) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(readSize, size - at), at)
      if (bytesRead === 0) return
      const part = buffer.subarray(0, bytesRead)
      hash.update(part)
      await copy.writeFile(part)
      at += bytesRead
    }
  } finally {
    await copy.close()
  }
}

function refused(path: string, detail: string): KvitestError {
  return new KvitestError('restore a checkpoint', `${path}: ${detail}`, {
    code: 'EBADMSG',
    hint: "save it again with 'kvitest checkpoint save'",
    infra: false,
  })
}
