import { readFile, writeFile } from 'node:fs/promises'
import type { HostMachine, MachineHost } from '../host/machine-host.ts'
import { cached, prune } from '../image/cache.ts'
import type { MachineEvent, MachineSpec } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { AgentClient, forkedMessage } from './agent/client.ts'
import { agentPort } from './agent/protocol.ts'
import type { GuestSidecar } from './sidecar.ts'
import { SymbolTable } from './symbols.ts'

/** Where a 64-bit kernel lies that was linked for 0xffffffff81000000 and did not move itself (no KASLR). */
const unmoved = 0xffffffff81000000n
const keptTables = 8
const operation = 'read the names of the kernel'

export interface SymbolRequest {
  /** The guest's own machine: another lab may have no such checkpoint, or one with the kernel elsewhere. */
  beside: HostMachine
  /** Key of the checkpoint that the guest went on from. */
  key: string
  spec: MachineSpec
  /** As in the guest's own sidecar. */
  moment: string
}

/**
 * Names of the addresses of a guest that cannot be asked any more: its sibling, another fork of the same checkpoint, has
 * them at the same places. Cached by checkpoint. Debian's System.map is a stub, and would lack modules anyway.
 */
export async function siblingSymbols(machines: MachineHost, request: SymbolRequest): Promise<SymbolTable> {
  const path = await cached(['symbols', `${request.key}-${request.moment}`], async (target) => {
    await writeFile(target, await readSibling(machines, request))
  })
  await prune('symbols', keptTables)
  return SymbolTable.parse(await readFile(path, 'latin1'))
}

async function readSibling(
  machines: MachineHost,
  { key, spec, moment, beside }: SymbolRequest,
): Promise<string> {
  let client: AgentClient | undefined
  const early: MachineEvent[] = []
  let listener = (event: MachineEvent): void => void early.push(event)
  const { machine, sidecar } = await machines.forkCached(
    {
      key,
      cpus: spec.cpus,
      memory: spec.memory,
      options: { name: `${spec.name}-sibling` },
      beside,
      make: () => Promise.reject(new KvitestError(operation, 'its checkpoint is gone', { code: 'ENOENT' })),
    },
    (event) => listener(event),
  )
  try {
    const origin = sidecar as GuestSidecar
    const agent = AgentClient.resume(origin.agent, (data) => machine.write(agentPort, data))
    client = agent
    listener = (event) => {
      if (event.type !== 'data') return
      machine.consumed(event.channel, event.data.byteLength)
      if (event.channel === agentPort) agent.receive(event.data)
    }
    for (const event of early) listener(event)
    const lost = () =>
      agent.fail(new KvitestError(operation, 'the sibling ended', { code: 'EPIPE', infra: false }))
    machine.ended.then(lost, lost)
    await machine.start()
    await agent.forked(forkedMessage(false))
    const text: Uint8Array[] = []
    const process = await agent.spawn(['cat', '/proc/kallsyms'], { onStdout: (data) => text.push(data) })
    await process.exited
    const kallsyms = Buffer.concat(text).toString('latin1')
    const { start } = SymbolTable.parse(kallsyms)
    // Another lab may have made its own checkpoint of the same machine: alike but for where the kernel moved itself.
    if (origin.moment !== moment && start !== unmoved) {
      throw new KvitestError(operation, 'its checkpoint is gone, another has other addresses', {
        code: 'ESTALE',
      })
    }
    return kallsyms
  } finally {
    client?.fail(new KvitestError(operation, 'over', { code: 'ECANCELED' }))
    await machine.stop().catch(() => {})
  }
}
