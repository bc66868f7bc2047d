/**
 * A program: brings the kernels named as arguments into the cache and says only what it fetched. Used by the
 * set-up, so that the first run needs no network.
 */
import { KvitestError } from '../native/error.ts'
import { resolveKernel } from './resolve.ts'
import { extractVmlinux } from './vmlinux.ts'

try {
  for (const name of process.argv.slice(2)) {
    const kernel = await resolveKernel(name, { note: (line) => console.log(`setup: ${line}`) })
    await extractVmlinux(kernel.image)
  }
} catch (error) {
  console.error(`setup: ${error instanceof KvitestError ? error.message : error}`)
  process.exitCode = 1
}
