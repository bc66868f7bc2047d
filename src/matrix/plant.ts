/** A KVM that misbehaves, planted between a program and the kernel: `fixtures/shims/kvm-plant`. */
import { existsSync } from 'node:fs'
import { copyFile, cp } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { catalogue } from '../abi/catalogue/catalogue.ts'
import { fileHash } from '../image/hash.ts'
import { makePack } from '../image/pack.ts'
import { KvitestError } from '../native/error.ts'
import type { PreparedTool, Tool, ToolPlace } from './tool.ts'

const shim = fileURLToPath(new URL('../../build/Release/shims/kvm-plant', import.meta.url))
const shimInPack = '/kvm-plant'

function refuse(plant: string, detail: string): never {
  throw new KvitestError(`plant ${plant}`, detail, {
    code: 'EINVAL',
    hint: 'give refuse=IOCTL:ERRNO, errno=IOCTL:FROM:TO, capability-gone=KVM_CAP_X, msr-gone=INDEX, cpuid-limit=ENTRIES, cpuid-after-run, xsave-known=MASK, xsave-lost=MASK or thread-of-vm',
    infra: false,
  })
}

const readers = {
  ioctl: (name: string) => catalogue.request(name),
  errno: (name: string) => (constants.errno as Record<string, number>)[name],
  capability: (name: string) => catalogue.capability(name).value,
  number: (text: string) => (/^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : undefined),
} as const

/** What each plant wants; the shim's own comment says what each does. */
const plants: Record<string, (keyof typeof readers)[]> = {
  refuse: ['ioctl', 'errno'],
  errno: ['ioctl', 'errno', 'errno'],
  'capability-gone': ['capability'],
  'msr-gone': ['number'],
  'cpuid-limit': ['number'],
  'cpuid-after-run': [],
  'xsave-known': ['number'],
  'xsave-lost': ['number'],
  'thread-of-vm': [],
}

function read(plant: string, kind: keyof typeof readers, text: string): number {
  try {
    const found = readers[kind](text)
    if (found !== undefined) return found
  } catch (error) {
    if (!(error instanceof KvitestError)) throw error
  }
  return refuse(plant, `'${text}' is no ${kind}`)
}

/** One plant with its names as numbers: `errno=KVM_RUN:EINTR:ENOMEM` is `errno=44672:4:12`. */
function shimArgument(plant: string): string {
  const [name, rest] = [plant.split('=', 1)[0]!, plant.split('=').slice(1).join('=')]
  const wanted = plants[name] ?? refuse(plant, 'there is no such plant')
  const given = rest === '' ? [] : rest.split(':')
  if (given.length !== wanted.length) refuse(plant, `want ${wanted.join(':') || 'nothing'} after its name`)
  const numbers = wanted.map((kind, at) => read(plant, kind, given[at]!))
  return numbers.length === 0 ? name : `${name}=${numbers.join(':')}`
}

/**
 * The command line in front of a program that makes its KVM misbehave, and that of all that it starts. Throws a
 * KvitestError for a plant that there is not.
 */
export function plantArgv(plants: readonly string[], program = shim): string[] {
  if (program === shim && !existsSync(shim)) {
    throw new KvitestError('plant', `${shim} is not built`, { code: 'ENOENT', hint: 'npm run setup' })
  }
  return [program, ...plants.map(shimArgument), '--']
}

function withPlants(at: ToolPlace, argv: readonly string[]): ToolPlace {
  return {
    host: at.host,
    get programs() {
      const { programs } = at
      return {
        run: (request: Parameters<typeof programs.run>[0], onOutput: Parameters<typeof programs.run>[1]) =>
          programs.run({ ...request, argv: [...argv, ...request.argv] }, onOutput),
        close: () => programs.close(),
      }
    },
  }
}

/**
 * A tool whose KVM misbehaves, as a tool of its own: a matrix with both shows what depends on it. For tools with a pack,
 * whether linked statically or not.
 */
export function planted(tool: Tool, misbehaviour: readonly string[]): Tool {
  const argv = plantArgv(misbehaviour, shimInPack)
  const prepare = async (...of: Parameters<Tool['prepare']>): Promise<PreparedTool> => {
    const prepared = await tool.prepare(...of)
    const { pack: own, each, all } = prepared
    if (!own) {
      throw new KvitestError(`tool ${tool.name}`, 'it has no pack, so its programs cannot be wrapped', {
        code: 'ENOTSUP',
        infra: false,
      })
    }
    const pack = await makePack(
      `planted-${own.name}`,
      `${own.hash} ${await fileHash(shim)}`,
      async (root) => {
        await cp(own.root, root, { recursive: true, verbatimSymlinks: true })
        await copyFile(shim, join(root, shimInPack))
        return [...own.origin, 'fixtures/shims/kvm-plant']
      },
    )
    return {
      ...prepared,
      pack,
      hash: pack.hash,
      ...(each
        ? { each: { points: each.points, run: (at, point) => each.run(withPlants(at, argv), point) } }
        : {}),
      ...(all ? { all: (at) => all(withPlants(at, argv)) } : {}),
    }
  }
  return { ...tool, name: `${tool.name} with ${misbehaviour.join(' ')}`, prepare }
}
