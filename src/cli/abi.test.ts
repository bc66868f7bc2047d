import { readFile, rm } from 'node:fs/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { makeTree } from '../abi/testing/header-tree.ts'
import { abi } from './abi.ts'

const places: string[] = []
let said: string[]

beforeEach(() => {
  said = []
  vi.spyOn(console, 'log').mockImplementation((line: string) => void said.push(line))
})

afterEach(async () => {
  vi.restoreAllMocks()
  for (const place of places.splice(0)) await rm(place, { recursive: true, force: true })
})

async function tree(text: string): Promise<string> {
  const root = await makeTree(text)
  places.push(root)
  return root
}

test('the counts of the catalogue are those of docs/abi.md', async () => {
  expect(await abi(['catalogue'])).toBe(0)

  const document = await readFile(new URL('../../docs/abi.md', import.meta.url), 'utf8')
  expect(document).toContain(`$ kvitest abi catalogue\n${said.join('\n')}\n\`\`\``)
})

test('the exit status of a comparison is by class', async () => {
  const old = await tree('#define KVM_A 1\n')
  const changed = await tree('#define KVM_A 2\n')
  const longer = await tree('#define KVM_A 1\n#define KVM_B 1\n')

  expect(await abi(['headers', old, old])).toBe(0)
  expect(said[0]).toBe('0 breaking, 0 additive, 0 info, 0 suppressed')
  expect(await abi(['headers', old, changed])).toBe(1)
  expect(await abi(['headers', '--fail-on', 'never', old, changed])).toBe(0)
  expect(await abi(['headers', old, longer])).toBe(0)
  expect(await abi(['headers', '--fail-on', 'additive', old, longer])).toBe(1)
})

test('other headers can be compared', async () => {
  const [old, young] = [await tree('#define KVM_A 1\n'), await tree('#define KVM_A 2\n')]

  expect(await abi(['headers', '--header', 'linux/types.h', old, young])).toBe(0)
})

test('changes as JSON', async () => {
  await abi(['headers', '--json', await tree('#define KVM_A 1\n'), await tree('#define KVM_A 2\n')])

  expect(JSON.parse(said.join('\n'))).toMatchObject({
    arch: 'x86',
    changes: [{ class: 'breaking', kind: 'constant', name: 'KVM_A', before: '0x1', after: '0x2' }],
  })
})

test('wrong arguments are named', async () => {
  await expect(abi(['headers', 'debian:6.1'])).rejects.toThrow(
    'kvitest abi headers: 1 header trees; give two',
  )
  await expect(abi(['headers', '--arch', 'mips', 'a', 'b'])).rejects.toThrow('--arch mips; give x86, arm64')
  await expect(abi(['headers', '--fail-on', 'bad', 'a', 'b'])).rejects.toThrow('--fail-on bad; give breaking')
  expect(await abi(['compare'])).toBe(2)
})
