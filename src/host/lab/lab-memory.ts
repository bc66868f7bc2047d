import { open } from 'node:fs/promises'
import { KvitestError } from '../../native/error.ts'

const pageSize = 4096
const chunkPages = 256
const zeros = Buffer.alloc(pageSize)

/** A set of pages as a bitmap, page 0 in the lowest bit of byte 0. */
export class PageSet {
  readonly bits: Buffer

  constructor(bits: Buffer) {
    this.bits = bits
  }

  static empty(bytes: number): PageSet {
    return new PageSet(Buffer.alloc(Math.ceil(bytes / pageSize / 8)))
  }

  has(page: number): boolean {
    return ((this.bits[page >> 3] ?? 0) & (1 << (page & 7))) !== 0
  }

  add(page: number): void {
    this.bits[page >> 3]! |= 1 << (page & 7)
  }
}

export interface MemorySource {
  pid: number
  /** Where the memory begins in that process. */
  address: number
  /** A multiple of 8 pages. */
  bytes: number
  /** Pages with data in the file that the memory is a private mapping of. */
  inFile?: PageSet
}

/** Pages that hold something: the process's own ones (proc(5), pagemap), and those of the mapped file. */
async function usedPages({ pid, address, bytes, inFile }: MemorySource): Promise<PageSet> {
  const entries = Buffer.alloc((bytes / pageSize) * 8)
  const file = await open(`/proc/${pid}/pagemap`)
  try {
    await readFully(file, entries, entries.length, (address / pageSize) * 8)
  } finally {
    await file.close()
  }
  const used = PageSet.empty(bytes)
  for (let page = 0; page < bytes / pageSize; page++) {
    // Bit 63: present, 62: swapped, 61: a page of a file, which is the same there.
    const flags = entries[page * 8 + 7]!
    const isOwn = (flags & 0xc0) !== 0 && (flags & 0x20) === 0
    if (isOwn || inFile?.has(page)) used.add(page)
  }
  return used
}

type FileHandle = Awaited<ReturnType<typeof open>>

async function readFully(file: FileHandle, into: Buffer, length: number, position: number): Promise<void> {
  for (let at = 0; at < length; ) {
    const { bytesRead } = await file.read(into, at, length - at, position + at)
    if (bytesRead === 0) {
      throw new KvitestError('read the memory of a lab', `it ends ${length - at} bytes early`, {
        code: 'EIO',
      })
    }
    at += bytesRead
  }
}

async function writeFully(file: FileHandle, data: Buffer, position: number): Promise<void> {
  for (let at = 0; at < data.length; ) {
    at += (await file.write(data, at, data.length - at, position + at)).bytesWritten
  }
}

/**
 * Writes the memory of a stopped process to a new sparse file, zeros left out. Needs the right to trace the process
 * (proc(5), mem), which the parent of a process of the same user has unless yama forbids it. Returns the pages
 * with data.
 */
export async function saveMemory(
  source: MemorySource,
  target: string,
  options: { signal?: AbortSignal; beforeWriting?: (bytes: number) => Promise<void> } = {},
): Promise<{ pages: PageSet; data: number }> {
  const { pid, address, bytes } = source
  const used = await usedPages(source)
  const count = bytes / pageSize
  let most = 0
  for (let page = 0; page < count; page++) if (used.has(page)) most += pageSize
  await options.beforeWriting?.(most)

  const pages = PageSet.empty(bytes)
  let data = 0
  const memory = await open(`/proc/${pid}/mem`)
  try {
    const file = await open(target, 'wx')
    try {
      await file.truncate(bytes)
      const buffer = Buffer.alloc(chunkPages * pageSize)
      for (let page = 0; page < count; ) {
        if (!used.has(page)) {
          page++
          continue
        }
        let end = page + 1
        while (end < count && end - page < chunkPages && used.has(end)) end++
        options.signal?.throwIfAborted()
        const length = (end - page) * pageSize
        await readFully(memory, buffer, length, address + page * pageSize)
        for (const run of dataRuns(buffer, length)) {
          await writeFully(file, buffer.subarray(run.from, run.to), page * pageSize + run.from)
          for (let at = run.from; at < run.to; at += pageSize) pages.add(page + at / pageSize)
          data += run.to - run.from
        }
        page = end
      }
    } finally {
      await file.close()
    }
  } finally {
    await memory.close()
  }
  return { pages, data }
}

/** Byte ranges of whole pages that are not all zero. */
function* dataRuns(buffer: Buffer, length: number): Generator<{ from: number; to: number }> {
  const isZero = (at: number) => buffer.compare(zeros, 0, pageSize, at, at + pageSize) === 0
  for (let at = 0; at < length; at += pageSize) {
    if (isZero(at)) continue
    const from = at
    while (at < length && !isZero(at)) at += pageSize
    yield { from, to: at }
  }
}
