/** What it takes to run a test again. */
export interface Rerun {
  /** Relative to the directory that the command is run in. */
  file: string
  /** vitest project; absent or empty without projects. */
  project?: string | undefined
  /** As vitest names it, `describe > name`; a whole file without. */
  test?: string | undefined
  /** The tests of one describe block, in place of one test. */
  block?: string | undefined
  /** As KVITEST_HOST takes it. */
  host?: string | undefined
  /** As KVITEST_KERNEL takes it; only where the project does not say it. */
  kernel?: string | undefined
  /** vitest config file, relative; only where vitest would not find it. */
  config?: string | undefined
}

/** One line for a POSIX shell: exactly this test, on this kernel and host. */
export function rerunCommand({ file, project, test, block, host, kernel, config }: Rerun): string {
  const variables = Object.entries({ KVITEST_HOST: host, KVITEST_KERNEL: kernel })
    .filter(([, value]) => value)
    .map(([name, value]) => `${name}=${shellWord(value!)}`)
  const pattern =
    test !== undefined
      ? `^${literalPattern(test)}$`
      : block === undefined
        ? undefined
        : blocksPattern([block])
  const options = Object.entries({ '--config': config, '--project': project, '-t': pattern })
    .filter(([, value]) => value)
    .flatMap(([name, value]) => [name, shellWord(value!)])
  // A name that begins with a dash would be an option.
  const path = file.startsWith('-') ? `./${file}` : file
  return [...variables, 'npx vitest run', shellWord(path), ...options].join(' ')
}

/** For vitest's -t: the tests of these describe blocks, and that one. */
export function blocksPattern(blocks: readonly string[], test?: string): string {
  const names = blocks.map(literalPattern)
  const inBlocks = `${names.length === 1 ? names[0] : `(${names.join('|')})`} > `
  return test === undefined ? `^${inBlocks}` : `^(${literalPattern(test)}$|${inBlocks})`
}

/** One word of a POSIX shell that means exactly `text`. */
export function shellWord(text: string): string {
  if (/^[A-Za-z0-9_@%+=:,./-]+$/.test(text)) return text
  return `'${text.replaceAll("'", `'\\''`)}'`
}

/** A regular expression that matches `text` alone, in one line, for vitest's -t. */
function literalPattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&').replace(/[\n\r]/g, '\\s')
}
