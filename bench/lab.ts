/** A lab of nothing in it: booted, saved, restored. The kernel, its images and hashes are made before. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Labs, SavedLabs, startLabs } from '../src/host/index.ts'
import { LabHost } from '../src/host/lab/client.ts'
import { printTable, type Row, timed } from './table.ts'

export async function bench(argv: string[]): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: {
      kernel: { type: 'string', default: 'debian:6.12-cloud' },
      runs: { type: 'string', default: '3' },
    },
  })
  const boot: Row = { what: 'boot to ready', values: [], unit: 'ms' }
  const save: Row = { what: 'close with saving', values: [], unit: 'ms' }
  const restore: Row = { what: 'restore to ready', values: [], unit: 'ms' }
  const connect = async (labs: Labs) => (await timed(() => LabHost.connect(labs.socket, values.kernel))).ms
  const directory = await mkdtemp(join(tmpdir(), 'kvitest-bench-labs-'))
  try {
    // The first one makes what is missing.
    for (let run = 0; run <= Number(values.runs); run++) {
      const store = new SavedLabs({ directory: join(directory, String(run)) })
      const booted = await startLabs({ labs: 1, savedLabs: store })
      const bootTime = await connect(booted)
      const saved = await timed(() => booted.close())
      const restored = await startLabs({ labs: 1, savedLabs: store })
      const restoreTime = await connect(restored)
      await restored.close({ save: false })
      for (const { key } of await store.list()) await store.remove(key)
      if (run === 0) continue
      boot.values.push(bootTime)
      save.values.push(saved.ms)
      restore.values.push(restoreTime)
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
  printTable(`lab of ${values.kernel}`, [boot, save, restore])
}
