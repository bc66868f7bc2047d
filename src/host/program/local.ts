import type { Pack } from '../../image/pack.ts'
import { KvitestError } from '../../native/error.ts'
import { ProgramOutput, type ProgramPlace } from './contract.ts'
import { type RunningProgram, startProgram } from './root.ts'

/** Programs of a pack on this machine, straight from the cache. */
export function openLocalPrograms(pack: Pack): ProgramPlace {
  const running = new Set<RunningProgram>()
  let isClosed = false
  return {
    run: async (request, onOutput) => {
      if (isClosed)
        throw new KvitestError(`run ${request.argv[0]}`, 'its place was closed', { code: 'ECANCELED' })
      const output = new ProgramOutput()
      const program = startProgram({ root: pack.root, place: 'local' }, request, (stream, data) => {
        output.push(stream, data)
        onOutput?.(stream, data)
      })
      running.add(program)
      try {
        return output.result(await program.ended)
      } finally {
        running.delete(program)
      }
    },
    close: async () => {
      isClosed = true
      for (const program of running) program.kill()
      await Promise.allSettled([...running].map((program) => program.ended))
    },
  }
}
