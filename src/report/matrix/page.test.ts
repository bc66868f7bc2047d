import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { escapeHtml, html } from './markup.ts'
import { matrixPage } from './page.ts'
import { matrixReport } from './report.ts'
import { hostile, point, ranCell, sampleReport } from './testing/run.ts'

const page = matrixPage(sampleReport())

/** The link of a cell in the map: its class and its text. */
function inMap(id: string): string | undefined {
  const links = [...page.matchAll(/<a class="cell (\w+)"[^>]*title="([^"]*)"[^>]*>(.*?)<\/a>/g)]
  const found = links.find((one) => one[2]!.startsWith(`${id.replaceAll('>', '&gt;')}: `))
  return (
    found &&
    `${found[1]} ${found[3]!
      .replace(/<[^>]+>/g, ' ')
      .replace(/\s+/g, ' ')
      .trim()}`
  )
}

test('what is put into a template is text', () => {
  expect(html`<p title="${'"<'}">${['a', html`<b>${"'&"}</b>`, undefined, 1]}</p>`.html).toBe(
    '<p title="&quot;&lt;">a<b>&#39;&amp;</b>1</p>',
  )
  expect(escapeHtml('\u001b[31mred\u001b[0m\u0000\u202e')).toBe('red\u202e')
})

test('a cell of the map has its verdict, its counts and what was not expected', () => {
  expect(inMap('lab:debian:6.1-cloud > selftests-6.1')).toBe('good P 1 pass, 1 skip')
  expect(inMap('lab:debian:6.12-cloud > selftests-6.1')).toBe(
    'red F 1 pass, 2 fail 1 not expected, 1 expected, 2 differ',
  )
  expect(inMap('lab:debian:6.12-cloud > qemu-7.2 > debian:6.12-cloud')).toBe(
    'known F 1 fail 1 expected, 1 differs',
  )
  expect(inMap('local > selftests-6.1')).toBe('infra I lost')
  expect(page).toContain('title="no such cell"')
})

test('what a guest saw differently is a diff, value by value', () => {
  const seen = (value: string) =>
    point('fingerprint cpuid', 'pass', { fingerprint: { '1 eax': 'same', '1 ecx': value } })
  const report = matrixReport({
    ...sampleReport(),
    expected: ['old > vmm > g', 'new > vmm > g'],
    ran: new Map([
      ranCell('old > vmm > g', [seen('f7')]),
      ranCell('new > vmm > g', [seen('<f8>')], { baseline: 'old > vmm > g' }),
    ]),
  })
  const text = matrixPage(report)

  expect(text).toContain(
    '<span class="minus">-cpuid 1 ecx: f7</span><span class="plus">+cpuid 1 ecx: &lt;f8&gt;</span>',
  )
  expect(text).toContain('differs from old in 1 point<')
  expect(text).not.toContain('-cpuid 1 eax')
})

test('each link of the page leads to one place in it', () => {
  const targets = [...page.matchAll(/ id="([^"]+)"/g)].map((one) => one[1])
  const links = new Set([...page.matchAll(/href="#([^"]+)"/g)].map((one) => one[1]))
  expect(new Set(targets).size).toBe(targets.length)
  expect([...links].toSorted()).toEqual(targets.toSorted())
})

test('no text of a tool, a kernel or a file is markup, and nothing is loaded', () => {
  expect(page).toContain(escapeHtml(hostile))
  expect(page).not.toMatch(/<script|<img|onerror="/i)
  expect(page.match(/<\/style>/g)).toHaveLength(1)
  expect(page).not.toMatch(/(src|href)="(?!#|https:\/\/example\.org\/1")/)
  expect(page).toContain(`content="default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;;`)
})

test('it is well-formed: each tag is closed in order', () => {
  // Void elements are the only ones of HTML that XML would not take.
  const xml = page.replace('<!doctype html>', '').replace(/<(meta [^>]*)>/g, '<$1/>')
  const { status, stderr } = spawnSync('xmllint', ['--noout', '-'], { input: xml, encoding: 'utf8' })
  expect(status, stderr).toBe(0)
})

test('the first line says whether anything was not expected', () => {
  const outcome = (report: ReturnType<typeof sampleReport>) =>
    /<p class="outcome">(.*?)<\/p>/.exec(matrixPage(report))?.[1]
  const { cells } = sampleReport()
  expect(outcome(sampleReport())).toBe('2 cells with something unexpected')
  expect(outcome(sampleReport({ cells: [cells[0]!, cells[3]!] }))).toBe(
    'Nothing unexpected in 3 points, 1 of them fails as is expected',
  )
  expect(outcome(sampleReport({ cells: [cells[0]!], problems: ['a stale entry'] }))).toContain('unexpected')
})
