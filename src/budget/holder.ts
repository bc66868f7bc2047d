import { AsyncLocalStorage } from 'node:async_hooks'

/** On whose behalf guests are asked for: a test, one run of a script; else the process as a whole. */
export interface Holder {
  readonly id: string
  /** Another holder, which gives nothing back before this one is through: the hooks of a test's file. */
  readonly within?: string | undefined
  /** Its time-outs stand still from now on until the returned function is called. */
  pause?: (() => () => void) | undefined
  /** It has no use any more for what it waits for. */
  signal?: AbortSignal | undefined
}

/** Who holds what is asked for outside any holder, such as in a hook of a test file: a worker has one file at a time. */
export const processHolder = 'process'

/** A worker may load this module twice, by Node and by vitest: they share what they know. */
const KEY = Symbol.for('kvitest.holders')

interface Shared {
  current: AsyncLocalStorage<Holder>
  /** Of what runs outside any holder, such as a hook. */
  process: Holder
}

function shared(): Shared {
  const place = globalThis as { [KEY]?: Shared }
  place[KEY] ??= { current: new AsyncLocalStorage(), process: { id: processHolder } }
  return place[KEY]
}

/** Whatever `work` and all that it starts ask for is `holder`'s. */
export function asHolder<T>(holder: Holder, work: () => T): T {
  return shared().current.run(holder, work)
}

export function currentHolder(): Holder {
  return shared().current.getStore() ?? shared().process
}

/** How to pause what runs outside any holder. */
export function setProcessPause(pause: Holder['pause']): void {
  shared().process.pause = pause
}
