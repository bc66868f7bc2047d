/** `kvitest kernel fetch [name...]`: kernels into the cache, ahead of need and of going offline. */
import { resolveKernel } from '../image/resolve.ts'

const usage = `usage: kvitest kernel fetch [name...]

Fetches kernels (default: debian:6.12-cloud debian:6.1-cloud) into the cache and prints where they are.`

export async function kernel(argv: string[]): Promise<number> {
  const [action, ...names] = argv
  if (action !== 'fetch') {
    console.log(usage)
    return action === undefined || action === '--help' ? 0 : 2
  }
  for (const name of names.length > 0 ? names : ['debian:6.12-cloud', 'debian:6.1-cloud']) {
    const found = await resolveKernel(name)
    console.log(`${name}\t${found.release}\t${found.image}`)
  }
  return 0
}
