/** A tool for tests: a shell script in a pack of busybox, whose TAP is its points. It drives no KVM. */
import { busyboxPack } from '../../host/program/testing/pack.ts'
import { tapResults } from '../outcome.ts'
import type { Tool } from '../tool.ts'

export function tapTool(name: string, script: string): Tool {
  const deadline = 60_000
  return {
    name,
    takesGuest: false,
    need: { cpus: 1, memory: 16 << 20 },
    prepare: async () => {
      const pack = await busyboxPack()
      const argv = ['/bin/sh', '-c', script]
      return {
        pack,
        hash: pack.hash,
        version: '1.0',
        all: async ({ programs }) => tapResults(await programs.run({ argv, deadline }), deadline),
      }
    },
  }
}

/** One that cannot be had. */
export function absentTool(name: string): Tool {
  return { ...tapTool(name, ''), prepare: () => Promise.reject(new Error('the archive has it no more')) }
}
