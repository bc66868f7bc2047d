/** `npm run bench -- NAME`: one benchmark a file; each prints a table and what made it. */
import { KvitestError } from '../src/native/error.ts'

const benches: Record<string, () => Promise<{ bench: (argv: string[]) => Promise<void> }>> = {
  boot: () => import('./boot.ts'),
  bare: () => import('./bare.ts'),
  fork: () => import('./fork.ts'),
  soak: () => import('./soak.ts'),
  lab: () => import('./lab.ts'),
  starts: () => import('./starts.ts'),
  tap: () => import('./tap.ts'),
  console: () => import('./console.ts'),
  abi: () => import('./abi.ts'),
  kvm: () => import('./kvm.ts'),
  virtio: () => import('./virtio/compare.ts'),
  compat: () => import('./compat.ts'),
}

const [name, ...rest] = process.argv.slice(2)
const load = benches[name ?? '']
if (!load) {
  console.error(`usage: npm run bench -- ${Object.keys(benches).join(' | ')}`)
  process.exit(2)
}
try {
  await (await load()).bench(rest)
  process.exit(0)
} catch (error) {
  console.error(error instanceof KvitestError ? error.message : error)
  process.exit(1)
}
