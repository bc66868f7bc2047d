import { styleText } from 'node:util'
import type { LiveRun } from './live-run.ts'

/** As wide as the titles of vitest's own summary. */
const titleWidth = 11

/** The part of vitest's default and verbose reporters that draws the lines at the bottom of a terminal. */
interface DrawsSummary {
  summary?: { createSummary?: () => string[] }
}

/**
 * Adds what guests and labs do now to the lines that vitest keeps at the bottom of a terminal. It has no way to ask for
 * that, and nothing else can draw there. False where no reporter draws such lines: no terminal, or another reporter.
 */
export function addStatusLines(reporters: readonly unknown[], live: LiveRun): boolean {
  let isDrawn = false
  for (const reporter of reporters) {
    const { summary } = (reporter ?? {}) as DrawsSummary
    const draw = summary?.createSummary
    if (!summary || typeof draw !== 'function') continue
    summary.createSummary = () => {
      const lines = draw.call(summary)
      const own = [...titled('Guests', live.guestLine()), ...titled('Labs', live.labLine())]
      // The last one is empty.
      return [...lines.slice(0, -1), ...own, ...lines.slice(-1)]
    }
    isDrawn = true
  }
  return isDrawn
}

function titled(title: string, text: string | undefined): string[] {
  return text === undefined ? [] : [`${styleText('dim', title.padStart(titleWidth))}  ${text}`]
}
