import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type DirectoryEntry, listDirectory } from '../../image/directory.ts'
import { fileHash } from '../../image/hash.ts'
import type { DeviceSpec, MachineSpec } from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import type { LabRpc } from './connection.ts'
import { chunkSize } from './rpc.ts'

/** Calls of one transfer on their way at once: enough to hide the round trip, little enough to stay small. */
export const window = 4

/** Puts a file into the lab unless it is there; returns its sha256. */
export async function sendFile(rpc: LabRpc, path: string): Promise<string> {
  const sha256 = await fileHash(path)
  const { size } = await stat(path)
  if ((await rpc.ensureBlob(sha256, size)) === 'present') return sha256
  const hash = createHash('sha256')
  const onTheWay: Promise<void>[] = []
  let bytes = 0
  for await (const chunk of createReadStream(path, { highWaterMark: chunkSize, end: size - 1 })) {
    hash.update(chunk as Buffer)
    bytes += (chunk as Buffer).length
    const isLast = bytes === size
    if (isLast && hash.digest('hex') !== sha256) break
    if (onTheWay.length >= window) await onTheWay.shift()
    const sent = rpc.writeBlob(sha256, chunk as Buffer)
    sent.catch(() => {})
    onTheWay.push(sent)
    if (isLast) {
      await Promise.all(onTheWay)
      return sha256
    }
  }
  throw new KvitestError('send a file to the lab', `${path}: it changed while it was sent`, {
    code: 'EILSEQ',
    hint: 'try again',
  })
}

/** The spec with the names of its files in the lab in place of their paths. */
export async function sendFiles(rpc: LabRpc, spec: MachineSpec): Promise<MachineSpec> {
  const devices: DeviceSpec[] = []
  for (const device of spec.devices) devices.push(await sendDisk(rpc, device))
  return { ...spec, devices, payload: await sendPayload(rpc, spec.payload) }
}

/** What the spec's virtio-9p devices have in their directories, by tag; the files are in the lab then. */
export async function sendDirectories(
  rpc: LabRpc,
  spec: MachineSpec,
): Promise<Record<string, DirectoryEntry[]>> {
  const directories: Record<string, DirectoryEntry[]> = {}
  for (const device of spec.devices) {
    if (device.type !== 'virtio-9p') continue
    const entries = await listDirectory(device.path)
    for (const entry of entries) if (entry.kind === 'file') await sendFile(rpc, join(device.path, entry.path))
    directories[device.tag] = entries
  }
  return directories
}

async function sendPayload(rpc: LabRpc, payload: MachineSpec['payload']): Promise<MachineSpec['payload']> {
  if (payload.kind === 'bare') return { ...payload, elf: await sendFile(rpc, payload.elf) }
  const kernel = await sendFile(rpc, payload.kernel)
  const initramfs =
    payload.initramfs === undefined ? {} : { initramfs: await sendFile(rpc, payload.initramfs) }
  return { ...payload, kernel, ...initramfs }
}

/** A file that is only read goes into the lab by content; one that is written to cannot. */
async function sendDisk(rpc: LabRpc, device: DeviceSpec): Promise<DeviceSpec> {
  if (device.type !== 'virtio-blk' || 'memory' in device.backing) return device
  if ('overlay' in device.backing) {
    return { ...device, backing: { overlay: await sendFile(rpc, device.backing.overlay) } }
  }
  if (device.readOnly) return { ...device, backing: { overlay: await sendFile(rpc, device.backing.file) } }
  throw new KvitestError(
    'place a disk in the lab',
    `${device.name}: a lab does not write to files of this machine (${device.backing.file})`,
    { code: 'ENOTSUP', hint: 'give the disk an overlay over the file, or run on local', infra: false },
  )
}

async function writeAll(file: FileHandle, data: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < data.byteLength; ) {
    done += (await file.write(data, done, data.byteLength - done, position + done)).bytesWritten
  }
}

/** Fetches the file that the session saved a checkpoint in to a new file at `path`; a partly written one is removed. */
export async function fetchSaved(rpc: LabRpc, size: number, path: string): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    const onTheWay: Promise<Uint8Array | number>[] = []
    for (let asked = 0, written = 0; written < size; ) {
      while (asked < size && onTheWay.length < window) {
        const part = rpc.readSaved(asked, Math.min(chunkSize, size - asked))
        part.catch(() => {})
        onTheWay.push(part)
        asked += chunkSize
      }
      const data = await onTheWay.shift()!
      const isHole = typeof data === 'number'
      if (!isHole) await writeAll(file, data, written)
      written += isHole ? data : data.byteLength
    }
    await file.truncate(size)
    await file.close()
  } catch (error) {
    await file.close().catch(() => {})
    await rm(path, { force: true })
    throw error
  }
}
