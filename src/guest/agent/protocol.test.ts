import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import * as protocol from './protocol.ts'

const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8')

/** `{ HELLO: 1, ... }` of the header's constants with this prefix. */
function constants(prefix: string): Record<string, number> {
  const header = read('native/agent/protocol.h')
  const matches = header.matchAll(new RegExp(`^#define ${prefix}_(\\w+) (\\d+)$`, 'gm'))
  return Object.fromEntries([...matches].map(([, name, value]) => [name, Number(value)]))
}

/** `{ HELLO: 1, ... }` of the document's table below this heading. */
function documented(heading: string): Record<string, number> {
  const section = read('docs/agent-protocol.md').split(`## ${heading}\n`)[1]!.split('\n## ')[0]!
  return Object.fromEntries(
    [...section.matchAll(/^\| (\d+) \| (\w+) \|/gm)].map(([, id, name]) => [name, Number(id)]),
  )
}

test('frame types are the same in the agent, the host and the document', () => {
  expect(constants('KVITEST_TO_AGENT')).toEqual(protocol.toAgent)
  expect(documented('Host to agent')).toEqual(protocol.toAgent)
  expect(constants('KVITEST_TO_HOST')).toEqual(protocol.toHost)
  expect(documented('Agent to host')).toEqual(protocol.toHost)
})

test('flags and kinds are the same in the agent and the host', () => {
  expect(constants('KVITEST_EXEC')).toEqual(protocol.execFlags)
  expect(constants('KVITEST_EXIT')).toEqual(protocol.exitKind)
  expect(constants('KVITEST_POWER')).toEqual(protocol.power)
})

test('the port, the version and the limits are the same in the agent, the host and the document', () => {
  const header = read('native/agent/protocol.h')
  const document = read('docs/agent-protocol.md')
  expect(header).toContain(`#define KVITEST_AGENT_PORT "${protocol.agentPort}"\n`)
  expect(header).toContain(`#define KVITEST_PROTOCOL_VERSION ${protocol.protocolVersion}\n`)
  expect(header).toContain(`#define KVITEST_FRAME_HEADER ${protocol.frameHeader}\n`)
  expect(header).toContain(`#define KVITEST_FRAME_PAYLOAD_MAX ${protocol.framePayloadMax}\n`)
  expect(document).toContain(`# The agent protocol, version ${protocol.protocolVersion}\n`)
  expect(document).toContain(`\`${protocol.agentPort}\``)
  expect(document).toContain(`at most ${protocol.framePayloadMax}`)
})
