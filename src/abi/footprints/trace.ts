/** The footprint of a program by its system calls, as strace saw them. */
import { readFile } from 'node:fs/promises'
import { KvitestError } from '../../native/error.ts'
import { catalogue } from '../catalogue/catalogue.ts'
import type { Footprint } from './footprints.ts'

/** Another architecture's ioctl that has the number of one of x86: strace names both. */
const isOfX86 = (arch: readonly string[]) => arch.length === 0 || arch.includes('x86') || arch.includes('all')

const known = new Set([
  ...catalogue.ioctls.filter(({ arch }) => isOfX86(arch)).map(({ name }) => name),
  ...catalogue.capabilities.map(({ name }) => name),
  ...catalogue.exitReasons.map(({ name }) => name),
])

/**
 * What the output of `strace -f --kvm=vcpu -e trace=ioctl` names of KVM's API: requests, capabilities that are asked for,
 * and exit reasons. Which capability is enabled strace does not say. Rejects (EILSEQ) when no VM is made in it.
 */
export async function footprintOfTrace(
  path: string,
  tool: Pick<Footprint, 'tool' | 'version'>,
): Promise<Footprint> {
  const uses = new Set<string>()
  for (const line of (await readFile(path, 'utf8')).split('\n')) {
    if (!/\bioctl\(|<\.\.\. ioctl resumed>/.test(line)) continue
    for (const [name] of line.matchAll(/\bKVM_[A-Z0-9_]+\b/g)) if (known.has(name)) uses.add(name)
  }
  if (!uses.has('KVM_CREATE_VM')) {
    throw new KvitestError('make a footprint', `${path}: nothing in it makes a VM`, {
      code: 'EILSEQ',
      hint: 'give what strace -f --kvm=vcpu -e trace=ioctl -o FILE wrote',
      infra: false,
    })
  }
  return { ...tool, from: 'trace', uses: [...uses].sort() }
}
