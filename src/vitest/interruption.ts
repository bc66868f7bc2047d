/** What a run leaves behind when a signal ends it: vitest itself reports nothing then. */
import type { TestModule, Vitest } from 'vitest/node'

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/**
 * Calls `report` with what is known by then, before vitest ends the process over the signal a millisecond later: it must be
 * done when it returns. The first Ctrl-C on a terminal is a key to vitest, and no signal.
 */
export function onInterruption(vitest: Vitest, report: (modules: TestModule[]) => void): void {
  const heard = () => {
    const modules = vitest.state.getTestModules()
    if (modules.length > 0) report(modules)
  }
  for (const signal of SIGNALS) process.prependOnceListener(signal, heard)
  vitest.onClose(() => {
    for (const signal of SIGNALS) process.off(signal, heard)
  })
}
