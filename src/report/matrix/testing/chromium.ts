/** A real Chromium for tests of pages, without a window. */
import { execFile } from 'node:child_process'
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'

/** Absolute path; undefined where there is none. */
export function findChromium(): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter)
  const paths = folders.flatMap((folder) =>
    ['chromium', 'chromium-browser', 'google-chrome'].map((name) => join(folder, name)),
  )
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** What it prints. The last argument is the page. */
export async function runChromium(program: string, args: string[]): Promise<string> {
  const profile = mkdtempSync(join(tmpdir(), 'kvitest-chromium-'))
  const quiet = [
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ]
  // Root has no sandbox to offer; what it opens is ours, from this machine.
  const own = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--hide-scrollbars',
    `--user-data-dir=${profile}`,
  ]
  try {
    const options = { timeout: 120_000, maxBuffer: 1 << 26 }
    return (await promisify(execFile)(program, [...own, ...quiet, ...args], options)).stdout
  } finally {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
  }
}

/**
 * Opens a page in a frame of that width, as a phone would, and returns what `look`, the body of a function of its
 * `window`, finds there.
 */
export async function lookAt(
  program: string,
  page: string,
  {
    width,
    fragment = '',
    options = [],
    look,
  }: { width: number; fragment?: string; options?: readonly string[]; look: string },
): Promise<unknown> {
  // The page itself lets no script in, so the one that looks stands around it.
  const frame = `<!doctype html><iframe id="f" src="/page${fragment}" style="border:0;width:${width}px;height:800px"></iframe>
<script>f.onload = () => setTimeout(() => {
  const found = (function (window) { ${look} })(f.contentWindow)
  document.body.innerHTML = '<pre id="found">' + encodeURIComponent(JSON.stringify(found)) + '</pre>'
})</script>`
  const server = createServer(({ url = '' }, response) => {
    response.setHeader('content-type', 'text/html; charset=utf-8')
    response.end(url.startsWith('/page') ? page : frame)
  })
  await new Promise<void>((settle) => void server.listen(0, '127.0.0.1', settle))
  try {
    const { port } = server.address() as AddressInfo
    const args = [...options, '--virtual-time-budget=5000', '--dump-dom', `http://127.0.0.1:${port}/`]
    const dom = await runChromium(program, args)
    const found = /<pre id="found">([^<]*)<\/pre>/.exec(dom)
    if (!found) throw new Error(`the page was not looked at: ${dom.slice(0, 400)}`)
    return JSON.parse(decodeURIComponent(found[1]!))
  } finally {
    server.close()
  }
}
