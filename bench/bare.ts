/** The whole life of a bare guest on this machine's own /dev/kvm: create, start, run to its exit code, release. */
import { join } from 'node:path'
import { loadAddon } from '../src/native/addon.ts'
import type { MachineSpec } from '../src/native/contract.ts'
import { printTable, type Row, timed } from './table.ts'

const elf = join(import.meta.dirname, '../build/Release/guests/hello.elf')

export async function bench(): Promise<void> {
  const addon = loadAddon()
  const rows: Row[] = []
  for (const irqchip of [false, true]) {
    const spec: MachineSpec = {
      name: 'bench',
      cpus: 1,
      memory: 1 << 20,
      payload: { kind: 'bare', elf, ring: 0 },
      devices: [],
      irqchip,
    }
    const life = async () => {
      const { promise, resolve } = Promise.withResolvers<number | undefined>()
      const machine = await addon.createMachine(spec, (event) => {
        if (event.type === 'end') resolve(event.end.code)
      })
      await machine.start()
      const code = await promise
      await machine.stop()
      if (code !== 0) throw new Error(`hello.elf ended with ${code}`)
    }
    await life()
    const label = irqchip ? 'with irqchip' : 'without irqchip'
    const one: Row = { what: `one after the other, ${label}`, values: [], unit: 'ms' }
    for (let i = 0; i < 200; i++) one.values.push((await timed(life)).ms)
    const hundred: Row = { what: `100 at once, ${label}, each`, values: [], unit: 'ms' }
    for (let i = 0; i < 5; i++) {
      const { ms } = await timed(() => Promise.all(Array.from({ length: 100 }, life)))
      hundred.values.push(ms / 100)
    }
    rows.push(one, hundred)
  }
  printTable('bare guest life on local', rows)
}
