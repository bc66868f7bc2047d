/**
 * A matrix run as one HTML page: a map of its cells by axes, and below it each cell with its points. It loads nothing and
 * has no script; its own policy forbids both, because what tools and guests say is in it.
 */
import { countText } from '../../matrix/account.ts'
import { type Axis, axes, cellAxes, whereElse } from '../../matrix/axes.ts'
import { pointsKey } from '../../matrix/cells-file.ts'
import { type Content, html, Markup } from './markup.ts'
import type { MatrixReport, ReportedCell, ReportedPoint } from './report.ts'
import { style } from './style.ts'

const POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

const letters = { pass: 'P', fail: 'F', skip: 'S', timeout: 'T', oops: 'O', infra: 'I' } as const
const worstFirst = ['infra', 'oops', 'timeout', 'fail', 'skip', 'pass'] as const

const legend: [string, string, string][] = [
  ['good', 'P', 'passes'],
  ['known', 'F', 'fails, as is expected'],
  ['red', 'F', 'fails the run (F fail, O oops, T timeout, P unexpected pass)'],
  ['infra', 'I', 'says nothing of the kernel: our fault, or something was missing'],
  ['skip', 'S', 'skipped'],
  ['skip', '–', 'not run, with a reason or left out'],
]

interface Sign {
  kind: 'good' | 'known' | 'red' | 'infra' | 'skip'
  letter: string
}

/** The whole file. */
export function matrixPage(report: MatrixReport): string {
  const { matrix, cells, problems, count, isPart } = report
  const anchors = new Map(cells.map(({ id }, at) => [id, `cell-${at + 1}`]))
  const page = html`<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${matrix}: matrix</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1 class="said">${matrix}</h1>
<p class="soft said">${report.file}${report.project ? ` (${report.project})` : ''}, ${report.started.replace(/T(\d+:\d+).*/, ' $1 UTC')}, kvitest ${report.kvitest}</p>
<p class="outcome">${outcome(report)}</p>
<p>Cells: ${countText(count)}${isPart ? '. A part of the matrix: the run had a filter or was interrupted' : ''}</p>
${problems.length > 0 ? html`<ul class="problems">${problems.map((problem) => html`<li class="said">${problem}</li>\n`)}</ul>` : undefined}
<h2>The cells</h2>
<ul class="legend">${legend.map(([kind, letter, text]) => html`<li><span class="letter ${kind}">${letter}</span>${text}</li>`)}</ul>
${heatMap(cells, anchors)}
${differing(cells, anchors)}
<h2>Cell by cell</h2>
${cells.map((cell) => cellDetails(cell, anchors.get(cell.id)!))}
</main>
</body>
</html>
`
  return `<!doctype html>\n${page.html}`
}

const STYLE = new Markup(style)

function outcome({ cells, problems }: MatrixReport): string {
  const red = cells.filter((cell) => cell.red > 0 || cell.state === 'lost')
  const points = cells.reduce((sum, cell) => sum + cell.points.length, 0)
  const known = cells.reduce((sum, cell) => sum + cell.known, 0)
  const expected = known > 0 ? `, ${known} of them fail${known === 1 ? 's' : ''} as is expected` : ''
  if (red.length + problems.length === 0) return `Nothing unexpected in ${plural(points, 'point')}${expected}`
  return `${plural(red.length, 'cell')} with something unexpected`
}

function heatMap(cells: readonly ReportedCell[], anchors: ReadonlyMap<string, string>): Markup {
  const hosts = [...new Set(cells.map(({ host }) => host))]
  const rows = [...Map.groupBy(cells, ({ id }) => pointsKey(id)).values()]
  return html`<table class="map">
<thead><tr><th scope="col">tool</th>${hosts.map((host) => html`<th scope="col" class="said">${host}${hostText(cells, host)}</th>`)}</tr></thead>
<tbody>
${rows.map(
  (row) =>
    html`<tr><th scope="row" class="said">${row[0]!.tool}${besidesTool(row[0]!).map(([axis, value]) => html`<small>${axis} ${value}</small>`)}</th>${hosts.map(
      (host) => {
        const cell = row.find((one) => one.host === host)
        return html`<td>${cell ? mapCell(cell, anchors.get(cell.id)!) : html`<span class="none" title="no such cell">·</span>`}</td>`
      },
    )}</tr>\n`,
)}</tbody>
</table>`
}

function hostText(cells: readonly ReportedCell[], host: string): Content {
  const known = cells.find((cell) => cell.host === host && cell.hostKernel !== undefined)
  if (!known) return undefined
  return html`<small>${[known.hostKernel, known.hostAccelerator].filter(Boolean).join(', ')}</small>`
}

function mapCell(cell: ReportedCell, anchor: string): Markup {
  const { kind, letter } = cellSign(cell)
  const notes = [
    ...(cell.red > 0 ? [`${cell.red} not expected`] : []),
    ...(cell.known > 0 ? [`${cell.known} expected`] : []),
    ...(cell.differences.length > 0
      ? [`${cell.differences.length / 2} differ${cell.differences.length === 2 ? 's' : ''}`]
      : []),
  ].join(', ')
  return html`<a class="cell ${kind}" href="#${anchor}" data-host="${cell.host}" title="${cell.id}: ${verdictText(cell)}"><b>${letter}</b><span>${countsText(cell)}${notes ? html`<small>${notes}</small>` : undefined}</span></a>`
}

function differing(cells: readonly ReportedCell[], anchors: ReadonlyMap<string, string>): Content {
  const differ = cells.filter((cell) => cell.differences.length > 0)
  if (differ.length === 0) return undefined
  return html`<h2>What differs from the baseline</h2>
<ul>${differ.map((cell) => html`<li class="said"><a href="#${anchors.get(cell.id)}">${cell.id}</a> differs from ${baselineText(cell)} in ${plural(cell.differences.length / 2, 'point')}</li>\n`)}</ul>`
}

function cellDetails(cell: ReportedCell, anchor: string): Markup {
  const { kind, letter } = cellSign(cell)
  const [passed, others] = [cell.points.filter(isQuiet), cell.points.filter((point) => !isQuiet(point))]
  // A link to what is in closed details opens them: that is what the anchor is inside for.
  return html`<details><summary><span class="letter ${kind}">${letter}</span> <b class="said">${cell.id}</b> <span class="soft">${countsText(cell)}${cell.state === 'run' ? `, ${durationText(cell.duration)}` : ''}</span></summary>
<div class="body" id="${anchor}">
${facts(cell)}
${cell.rerun ? html`<p class="soft">Run it again:</p><pre>${cell.rerun}</pre>` : undefined}
${cell.differences.length > 0 ? html`<p class="soft">Against ${baselineText(cell)}:</p>${diff(cell.differences)}` : undefined}
${others.map(pointDetails)}
${passed.length > 0 ? html`<details><summary>${plural(passed.length, 'point')} that pass${passed.length === 1 ? 'es' : ''}</summary><div class="body">${passed.map(pointDetails)}</div></details>` : undefined}
</div></details>
`
}

function isQuiet(point: ReportedPoint): boolean {
  return point.verdict === 'pass' && !point.isRed && point.before === undefined
}

function facts(cell: ReportedCell): Markup {
  const known: [string, string | undefined][] = [
    ['verdict', verdictText(cell)],
    ['tool', [cell.tool, cell.toolVersion].filter(Boolean).join(', version ')],
    ['sha256', cell.toolHash],
    ['host', [cell.host, cell.hostKernel, cell.hostAccelerator].filter(Boolean).join(', ')],
    ...besidesTool(cell),
  ]
  return html`<dl>${known.map(([name, value]) => (value ? html`<dt>${name}</dt><dd class="said">${value}</dd>` : undefined))}</dl>`
}

/** Where the cell is beside host and tool, as far as its name says it. */
function besidesTool(cell: ReportedCell): [Axis, string][] {
  return axes.flatMap((axis): [Axis, string][] => {
    const value = cell[axis]
    return axis === 'host' || axis === 'tool' || value === undefined ? [] : [[axis, value]]
  })
}

function baselineText(cell: ReportedCell): string {
  return cell.baseline === undefined ? '' : whereElse(cellAxes(cell.baseline), cell)
}

function diff(lines: readonly string[]): Markup {
  return html`<pre class="diff">${lines.map((line) => html`<span class="${line.startsWith('-') ? 'minus' : 'plus'}">${line}</span>`)}</pre>`
}

function pointDetails(point: ReportedPoint): Markup {
  const { kind, letter } = pointSign(point)
  const { expected, before } = point
  const isWeb = expected !== undefined && /^https?:\/\//i.test(expected.link)
  const time = point.duration >= 100 ? durationText(point.duration) : ''
  return html`<details><summary><span class="letter ${kind}">${letter}</span> <span class="said">${point.name}</span> <span class="soft said">${[point.reason, time].filter(Boolean).join(', ')}</span></summary>
<div class="body">
${point.problems.map((problem) => html`<p class="said">${problem}</p>`)}
${expected ? html`<p class="said">Expected: ${expected.reason} (${isWeb ? html`<a href="${expected.link}" rel="noreferrer">${expected.link}</a>` : expected.link}; ${expected.source}, until ${expected.expires})</p>` : undefined}
${before ? html`<p class="said">On the baseline: ${before.verdict}${before.reason ? ` (${before.reason})` : ''}</p>` : undefined}
${point.output ? html`<pre>${point.output}</pre>` : html`<p class="soft">It said nothing.</p>`}
${point.rerun ? html`<p class="soft">Run it again:</p><pre>${point.rerun}</pre>` : undefined}
</div></details>
`
}

function cellSign(cell: ReportedCell): Sign {
  const { state, verdict, red } = cell
  if (state === 'lost') return { kind: 'infra', letter: letters.infra }
  if (verdict === undefined) return { kind: 'skip', letter: '–' }
  const letter = letters[verdict]
  if (verdict === 'infra') return { kind: 'infra', letter }
  if (red > 0) return { kind: 'red', letter }
  return { kind: verdict === 'pass' ? 'good' : verdict === 'skip' ? 'skip' : 'known', letter }
}

function pointSign({ verdict, isRed }: ReportedPoint): Sign {
  const letter = letters[verdict]
  if (verdict === 'infra') return { kind: 'infra', letter }
  if (isRed) return { kind: 'red', letter }
  return { kind: verdict === 'pass' ? 'good' : verdict === 'skip' ? 'skip' : 'known', letter }
}

function verdictText({ state, verdict, reason }: ReportedCell): string {
  return `${verdict ?? state}${reason ? ` (${reason})` : ''}`
}

function countsText({ counts, state }: ReportedCell): string {
  if (state !== 'run') return state
  return worstFirst
    .toReversed()
    .flatMap((verdict) => (counts[verdict] ? [`${counts[verdict]} ${verdict}`] : []))
    .join(', ')
}

function durationText(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`
}

function plural(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`
}
