import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { type ExpectationFile, parseExpectations } from '../verdict/expectations.ts'

const SUFFIX = '.expect.yaml'

/** Where the expectations of a project's tests lie. */
export interface ExpectationScope {
  /** Absolute: the folder that no search goes above. */
  root: string
  /** Files that apply to every test besides, as the plugin's option `expectations` has them. */
  listed: readonly string[]
}

/**
 * What is expected of the tests of a file: every `*.expect.yaml` in its folder and in those above up to the root,
 * nearest first, then the listed ones. Throws a KvitestError that names `file:line`.
 */
export function expectationFilesFor(testFile: string, scope: ExpectationScope): ExpectationFile[] {
  return find(testFile, scope).map(({ path, base }) => read(path, base, scope.root))
}

/** The files alone, absolute and in that order; not even one that cannot be read throws. */
export function expectationPaths(testFile: string, scope: ExpectationScope): string[] {
  return find(testFile, scope).map(({ path }) => path)
}

function find(testFile: string, { root, listed }: ExpectationScope): { path: string; base: string }[] {
  const found = foldersUp(dirname(testFile), root).flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.endsWith(SUFFIX))
      .sort()
      .map((name) => ({ path: join(folder, name), base: folder })),
  )
  const others = listed
    .map((path) => resolve(root, path))
    .filter((path) => !found.some((file) => file.path === path))
  return [...found, ...others.map((path) => ({ path, base: root }))]
}

/** From the folder to the root; the folder alone when it is not below the root. */
function foldersUp(folder: string, root: string): string[] {
  const isBelow = !relative(root, folder).startsWith('..')
  const folders = [folder]
  for (let at = folder; isBelow && at !== root; folders.push(at)) at = dirname(at)
  return folders
}

function read(path: string, base: string, root: string): ExpectationFile {
  const shown = relative(root, path)
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new KvitestError(`expectations ${shown}`, `cannot be read (${code})`, {
      code,
      hint: "mend the plugin's option 'expectations'",
      infra: false,
    })
  }
  return { ...parseExpectations(text, shown), path, base }
}
