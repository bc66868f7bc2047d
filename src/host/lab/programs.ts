import { join } from 'node:path'
import type { Pack } from '../../image/pack.ts'
import type { ProgramRequest } from '../program/contract.ts'
import { type ProgramNeed, ProgramOutput, type ProgramPlace } from '../program/contract.ts'
import { LabConnection } from './connection.ts'
import { sendFile } from './transfer.ts'

/** Programs of a pack in one lab of a kernel: a session of their own. */
export async function openLabPrograms(
  socketPath: string,
  kernel: string,
  pack: Pack,
  need: ProgramNeed,
): Promise<ProgramPlace> {
  let onOutput: ConstructorParameters<typeof LabConnection>[2]
  const connection = new LabConnection(
    socketPath,
    () => {},
    (stream, data) => onOutput?.(stream, data),
  )
  try {
    await connection.open({ kernel, ...need })
    for (const entry of pack.entries) {
      if (entry.kind === 'file') await sendFile(connection.rpc, join(pack.root, entry.path))
    }
    await connection.rpc.openRoot(pack.entries)
  } catch (error) {
    connection.close()
    throw error
  }
  const run = async (request: ProgramRequest, follow?: typeof onOutput) => {
    if (connection.rpc.$closed) return connection.lost
    const output = new ProgramOutput()
    onOutput = (stream, data) => {
      output.push(stream, data)
      follow?.(stream, data)
    }
    return output.result(await connection.rpc.runProgram(request))
  }
  return { run, close: async () => connection.close() }
}
