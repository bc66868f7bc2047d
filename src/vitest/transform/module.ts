import { scriptFault } from '../../guest/script.ts'
import { KvitestError } from '../../native/error.ts'
import { checkForkMode } from './fork.ts'
import { parseHeader } from './header.ts'
import { findPoints } from './points.ts'
import { type ScriptPlan, variantsOf } from './script.ts'
import { type GeneratedModule, joinMapped, type MappedLine } from './source-map.ts'

export interface TransformOptions {
  /** Absolute path of the script. */
  file: string
  text: string
  /** Specifier of src/vitest/session.ts for the generated import. */
  session: string
  /** Specifier of a module that exports `openHost`. */
  host: string
}

/** The module of vitest tests that stands for a script. Throws a KvitestError for a bad header. */
export function transformScript(options: TransformOptions): GeneratedModule & { plan: ScriptPlan } {
  const fault = scriptFault(Buffer.from(options.text), options.file)
  if (fault) throw new KvitestError(`${options.file}:1`, fault.detail, { hint: fault.hint, infra: false })
  const header = parseHeader(options.text, options.file)
  const plan: ScriptPlan = {
    file: options.file,
    header,
    points: findPoints(options.text),
    variants: variantsOf(header.guest),
  }
  checkForkMode(plan, options.text)
  return { ...joinMapped(moduleLines(options, plan), options.file, options.text), plan }
}

function moduleLines({ session, host }: TransformOptions, plan: ScriptPlan): MappedLine[] {
  const { header, points, variants } = plan
  const at = header.line
  const declare = header.only ? 'test.only' : 'test'
  // Points of one guest settle one after the other whatever the config says; its `script` test comes last.
  const options = '{ concurrent: false, timeout: 0 }'
  const lines: MappedLine[] = [
    { code: "import { afterAll, beforeAll, describe, test } from 'vitest'", line: 1 },
    { code: `import { openScript } from ${JSON.stringify(session)}`, line: 1 },
    {
      code: `const script = openScript(${JSON.stringify(plan)}, () => import(${JSON.stringify(host)}))`,
      line: 1,
    },
    { code: 'function points(run) {', line: at },
  ]
  if (header.skip === undefined) {
    lines.push(
      { code: '  beforeAll(({}, suite) => run.start(suite), 0)', line: at },
      { code: '  afterAll(() => run.stop(), 0)', line: at },
    )
  }
  for (const { name, line } of points.declared) {
    const literal = JSON.stringify(name)
    lines.push({
      code: `  ${declare}(${literal}, ${options}, (context) => run.point(context, ${literal}, ${line}))`,
      line,
    })
  }
  lines.push(
    { code: `  ${declare}("script", ${options}, (context) => run.script(context))`, line: at },
    { code: '}', line: at },
  )
  if (variants.length === 1) {
    lines.push({ code: 'points(script.run(0))', line: at })
  } else {
    const each = variants.map((variant, index) => ({
      code: `describe(${JSON.stringify(variant.name)}, { concurrent: true }, () => points(script.run(${index})))`,
      line: at,
    }))
    lines.push(...each)
  }
  return lines
}
