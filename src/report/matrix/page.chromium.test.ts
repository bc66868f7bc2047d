/** The page in a real browser. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { matrixPage } from './page.ts'
import { findChromium, lookAt, runChromium } from './testing/chromium.ts'
import { hostile, sampleReport } from './testing/run.ts'

const screenshots = resolve(import.meta.dirname, '../../../test-results/screenshots')
const chromium = findChromium() ?? ''
const dark = ['--blink-settings=preferredColorScheme=0']
const page = matrixPage(sampleReport())

/** Each box of the map, its letter, whether it is seen, and how its text stands out from its ground. */
const lookAtMap = `
  const { document, getComputedStyle } = window
  const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0)
  return {
    title: document.title,
    ground: getComputedStyle(document.body).backgroundColor,
    images: document.images.length,
    scripts: document.scripts.length,
    tooWide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    boxes: [...document.querySelectorAll('a.cell')].map((box) => {
      const { color, backgroundColor } = getComputedStyle(box)
      const [dark, bright] = [light(color), light(backgroundColor)].sort((a, b) => a - b)
      const { width, height, left, right } = box.getBoundingClientRect()
      const isSeen = width > 150 && height > 30 && left >= 0 && right <= window.innerWidth
      return { letter: box.querySelector('b').textContent, contrast: (bright + 0.05) / (dark + 0.05), isSeen }
    }),
  }`

interface Map {
  title: string
  ground: string
  images: number
  scripts: number
  tooWide: number
  boxes: { letter: string; contrast: number; isSeen: boolean }[]
}

describe.skipIf(chromium === '')(
  'in Chromium (apt-get install chromium; without it these are skipped)',
  () => {
    test.for([
      [1280, []],
      [390, []],
      [1280, dark],
    ] as const)(
      'at %i pixels %s each cell is seen and can be read, and nothing that was said has run',
      async ([width, options]) => {
        const map = (await lookAt(chromium, page, { width, options, look: lookAtMap })) as Map

        expect(map).toMatchObject({ title: 'old and new: matrix', images: 0, scripts: 0, tooWide: 0 })
        expect(map.ground).toBe(options.length > 0 ? 'rgb(21, 24, 27)' : 'rgb(251, 251, 250)')
        expect(map.boxes.map(({ letter }) => letter)).toEqual(['P', 'F', 'I', 'P', 'F'])
        expect(map.boxes.filter(({ isSeen }) => !isSeen)).toEqual([])
        // WCAG 2.2, 1.4.3
        expect(Math.min(...map.boxes.map(({ contrast }) => contrast))).toBeGreaterThan(4.5)
      },
    )

    test('a link of the map opens its cell, without a script', async () => {
      const look = `
      const open = [...window.document.querySelectorAll('main > details')].map((one) => one.open)
      const { width, height } = window.document.getElementById('cell-3').getBoundingClientRect()
      return { open, isSeen: width > 0 && height > 0, text: window.document.getElementById('cell-3').innerText }`
      const found = await lookAt(chromium, page, { width: 1280, fragment: '#cell-3', look })

      expect(found).toMatchObject({ open: [false, false, true, false, false], isSeen: true })
      // The second line of what was said is closed with its point; the diff is not.
      const { text } = found as { text: string }
      expect(text).toContain('-steal_time: skip (no source)')
      expect(text).toContain(hostile.slice(0, 40))
    })

    test.for([
      ['wide', '1280,1500', []],
      ['phone', '500,1700', []],
      ['dark', '1280,1500', dark],
    ] as const)('%s: a screenshot is kept', async ([name, size, more]) => {
      const folder = mkdtempSync(join(tmpdir(), 'kvitest-page-'))
      try {
        const file = join(folder, 'page.html')
        writeFileSync(file, page)
        mkdirSync(screenshots, { recursive: true })
        const picture = join(screenshots, `matrix-${name}.png`)
        rmSync(picture, { force: true })
        await runChromium(chromium, [
          ...more,
          `--window-size=${size}`,
          `--screenshot=${picture}`,
          `file://${file}`,
        ])
        const head = readFileSync(picture).subarray(0, 24)
        expect(head.subarray(1, 4).toString()).toBe('PNG')
        expect(`${head.readUInt32BE(16)},${head.readUInt32BE(20)}`).toBe(size)
      } finally {
        rmSync(folder, { recursive: true })
      }
    })
  },
)
