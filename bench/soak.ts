/** Forks in sequence, and what the process holds after each part of them: `npm run bench -- soak [--forks 10000]`. */
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { addonPath, loadAddon } from '../src/native/addon.ts'

interface Held {
  rssKiB: number
  descriptors: number
  threads: number
  mappings: number
}

async function held(): Promise<Held> {
  const status = await readFile('/proc/self/status', 'utf8')
  const value = (name: string) => Number(new RegExp(`^${name}:\\s*(\\d+)`, 'm').exec(status)![1])
  return {
    rssKiB: value('VmRSS'),
    threads: value('Threads'),
    descriptors: (await readdir('/proc/self/fd')).length,
    mappings: (await readFile('/proc/self/maps', 'utf8')).split('\n').length - 1,
  }
}

export async function bench(argv: string[]): Promise<void> {
  const { values } = parseArgs({ args: argv, options: { forks: { type: 'string', default: '10000' } } })
  const forks = Number(values.forks)
  const addon = loadAddon()
  const elf = join(dirname(addonPath()), 'guests/hello.elf')
  const machine = await addon.createMachine(
    { name: 'soak', cpus: 1, memory: 2 << 20, payload: { kind: 'bare', elf, ring: 0 }, devices: [] },
    () => {},
  )
  const checkpoint = await machine.checkpoint()
  await machine.stop()
  console.log('| forks | RSS KiB | descriptors | threads | mappings |')
  console.log('|---|---|---|---|---|')
  const report = async (done: number) => {
    const { rssKiB, descriptors, threads, mappings } = await held()
    console.log(`| ${done} | ${rssKiB} | ${descriptors} | ${threads} | ${mappings} |`)
  }
  const part = Math.max(1, Math.floor(forks / 10))
  for (let done = 0; done <= forks; done++) {
    // The first part warms what a process warms up once.
    if (done % part === 0) await report(done)
    const ended = Promise.withResolvers<number | undefined>()
    const fork = await checkpoint.fork({}, (event) => {
      if (event.type === 'end') ended.resolve(event.end.code)
    })
    await fork.start()
    const code = await ended.promise
    await fork.stop()
    if (code !== 0) throw new Error(`fork ${done} ended with ${code}`)
  }
  checkpoint.release()
}
