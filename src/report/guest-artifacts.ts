import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { GuestRecord } from '../guest/record.ts'
import { makePath } from '../image/cache.ts'
import type { MachineEnd } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { findSplats } from '../verdict/splat.ts'
import type { Judgement } from '../verdict/types.ts'

export interface ArtifactRequest {
  /** Absolute; what was there is replaced. */
  directory: string
  record: GuestRecord
  end: Judgement & { machine?: MachineEnd | undefined }
  /** The command that runs the test again. */
  rerun: string
  /** Writes the guest's memory to a path; absent when it is not wanted. */
  saveCore?: ((path: string) => Promise<void>) | undefined
}

const errorTexts: Record<string, string> = {
  ENOSPC: 'no space left on device',
  EDQUOT: 'disk quota exceeded',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'read-only file system',
  ENOENT: 'no such directory',
  ENOTDIR: 'not a directory',
  EEXIST: 'not a directory',
}

/**
 * Writes what is known of one guest; docs/artifacts.md lists the files. Returns their names. Rejects with a KvitestError
 * that names the place and the errno; what was written by then stays.
 */
export async function writeArtifacts(request: ArtifactRequest): Promise<string[]> {
  const { directory } = request
  const files = filesOf(request)
  try {
    await rm(directory, { recursive: true, force: true })
    await makePath(directory)
    for (const [name, text] of files) await writeFile(join(directory, name), text)
    if (!request.saveCore) return files.map(([name]) => name)
    await request.saveCore(join(directory, 'memory.elf'))
    return [...files.map(([name]) => name), 'memory.elf']
  } catch (error) {
    if (error instanceof KvitestError) throw error
    const code = (error as NodeJS.ErrnoException).code
    const detail = `${directory}: ${errorTexts[code ?? ''] ?? (error as Error).message}`
    throw new KvitestError('write artifacts', code ? `${detail} (${code})` : detail, { code, cause: error })
  }
}

function filesOf({ record, end, rerun }: ArtifactRequest): [string, string][] {
  const { name, kernel, host, spec, hashes, console, agent, scripts, dmesg, vcpus } = record
  const { machine, ...judgement } = end
  const commandLine = spec?.payload.kind === 'linux' ? spec.payload.cmdline : undefined
  const splats = end.evidence.filter((text) => !text.startsWith('asked the kernel')).flatMap(findSplats)
  return [
    ['console.log', console],
    ...scripts.flatMap(({ stdout, stderr }, at): [string, string][] => {
      const script = at === 0 ? 'script' : `script-${at + 1}`
      return [
        [`${script}.tap`, stdout],
        [`${script}.stderr`, stderr],
      ]
    }),
    ...(dmesg === undefined ? [] : [['dmesg.log', dmesg] as [string, string]]),
    ['agent.log', agent],
    ['machine.json', json({ name, commandLine, kernel, hashes, host, spec })],
    ['vcpus.json', json(vcpus.length > 0 ? vcpus : (machine?.vcpus ?? []))],
    [
      'verdict.json',
      json({ ...judgement, splats, machine, rerun, scripts: scripts.map((script) => script.name) }),
    ],
  ]
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

/** A name as one part of a path: nothing in it that a shell, Windows or an importer trips over. */
export function pathPart(name: string): string {
  const plain = name.replace(/[^A-Za-z0-9._=,@+-]+/g, '-').replace(/^[-.]+|-+$/g, '')
  // Not `.`, `..` or a hidden file, and short enough for every file system.
  return plain.slice(0, 120) || 'guest'
}
