import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { basename, join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cached, prune } from './cache.ts'
import { complaint, runCommand } from './command.ts'
import { dependenciesOf, fetchUnpacked } from './debian.ts'
import { textHash } from './hash.ts'
import type { KernelInfo } from './kernel.ts'

/**
 * Debian's headers of one kernel build, relocated so that they work where they are: its own packages expect to be in
 * /usr/src and find each other by relative links but for one line.
 */
async function debianHeaders(kernel: KernelInfo, version: string): Promise<string> {
  const name = `linux-headers-${kernel.release}`
  const path = await cached(['headers', `${kernel.release}_${version}`], async (target) => {
    const needed = await dependenciesOf(name)
    const parts = needed.filter((one) => /^linux-(headers-.*-common|kbuild-)/.test(one))
    await fetchUnpacked(
      // One source package: what has the kernel's own release in its name has its version too.
      [name, ...parts].map((one) =>
        one.startsWith('linux-headers-') ? { package: one, version } : { package: one },
      ),
      target,
    )
    const makefile = join(target, 'usr/src', name, 'Makefile')
    await writeFile(makefile, (await readFile(makefile, 'utf8')).replace('/usr/src/', '../'))
  })
  await prune('headers', 8)
  return join(path, 'usr/src', name)
}

/** Where `make M=...` works for this kernel: its build tree, or its distribution's headers. */
async function buildTree(kernel: KernelInfo): Promise<string> {
  if (kernel.packageVersion !== undefined) return debianHeaders(kernel, kernel.packageVersion)
  const tree = kernel.modules
  const entries = tree === undefined ? [] : await readdir(tree).catch(() => [])
  if (tree !== undefined && entries.includes('Makefile') && entries.includes('.config')) return tree
  if (tree !== undefined && entries.includes('build')) return join(tree, 'build')
  throw new KvitestError('build a kernel module', `${kernel.name}: no build tree and no headers of it`, {
    code: 'ENOENT',
    hint: 'give the path of the build tree as the kernel, or use a debian: kernel',
    infra: false,
  })
}

/** The kernel's reports name the file; where it happened to be built is noise. */
const recipe = 'ccflags-y := -fmacro-prefix-map=$(src)/='

/** What the compiler said first that is an error. */
function firstError(output: string): string {
  const line = output.split('\n').find((one) => /\berror\b|undefined!|\*\*\*/.test(one))
  return line?.trim() ?? ''
}

/**
 * Builds one C file as a module for a kernel; cached by content. Rejects with a KvitestError that carries the
 * compiler's first error.
 */
export async function buildModule(kernel: KernelInfo, source: string): Promise<string> {
  const text = await readFile(source, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new KvitestError('build a kernel module', `${source}: ${error.code}`, {
      code: error.code,
      infra: false,
    })
  })
  const name = basename(source, '.c')
  const key = textHash(`${kernel.hash} ${kernel.release} ${name} ${recipe}\n${text}`)
  const path = await cached(['modules', `${key}.ko`], async (target) => {
    const tree = await buildTree(kernel)
    const directory = `${target}.build`
    await mkdir(directory)
    await writeFile(join(directory, `${name}.c`), text)
    await writeFile(join(directory, 'Kbuild'), `obj-m := ${name}.o\n${recipe}\n`)
    // BTF would need pahole and the kernel's own; a test module has no use for it.
    const make = ['make', '-s', `-j${availableParallelism()}`, '-C', tree, `M=${directory}`]
    const result = await runCommand([...make, 'CONFIG_DEBUG_INFO_BTF_MODULES=', 'modules'], {
      package: 'make',
    })
    if (result.status !== 0) {
      throw new KvitestError(
        'build a kernel module',
        `${source} for ${kernel.release}: ${(firstError(result.stderr) || complaint(result)).replaceAll(`${directory}/`, '')}`,
        { infra: false },
      )
    }
    await cp(join(directory, `${name}.ko`), target)
  })
  await prune('modules', 64)
  return path
}
