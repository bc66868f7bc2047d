import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { type Profile, parseProfile, readProfile, renderProfile, writeProfile } from './profile.ts'
import { profileOf } from './testing/profile-of.ts'

async function directory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'kvitest-profile-'))
  onTestFinished(() => rm(path, { recursive: true, force: true }))
  return path
}

test('a profile is one key a line, sorted as a person reads', () => {
  const text = renderProfile(
    profileOf({
      abi: { 'attr.sys.0.10': 1, 'attr.sys.0.9': 1, 'cap.B.sys': 0, 'cap.A.sys': 1 },
      machine: { 'cpuid.supported.0x10.eax': '0x0', 'cpuid.supported.0x9.eax': '0x1' },
      volatile: ['b', 'a'],
    }),
  )

  expect(text).toMatchInlineSnapshot(`
    "{
      "kind": "kvitest KVM profile",
      "schema": 1,
      "environment": {},
      "abi": {
        "attr.sys.0.9": 1,
        "attr.sys.0.10": 1,
        "cap.A.sys": 1,
        "cap.B.sys": 0
      },
      "machine": {
        "cpuid.supported.0x9.eax": "0x1",
        "cpuid.supported.0x10.eax": "0x0"
      },
      "volatile": [
        "a",
        "b"
      ]
    }
    "
  `)
})

test('what was written is read again', async () => {
  const path = join(await directory(), 'p.json')
  const profile = profileOf({ abi: { 'cap.A.sys': 1 }, volatile: ['x'] })

  await writeProfile(path, profile)

  expect(await readProfile(path)).toEqual(profile)
})

test('what cannot be written leaves nothing', async () => {
  const place = await directory()

  await expect(writeProfile(join(place, 'absent/p.json'), profileOf({}))).rejects.toMatchObject({
    code: 'ENOENT',
    message: `write the profile: ${place}/absent/p.json: ENOENT; give a path in a directory that is there and may be written`,
  })
  // A directory of that name: the rename fails when all is written.
  await expect(writeProfile(place, profileOf({}))).rejects.toMatchObject({ code: 'EISDIR' })

  expect(await readdir(place)).toEqual([])
  const parent = await readdir(join(place, '..'))
  expect(parent.filter((name) => name.startsWith(`${place.split('/').at(-1)}.`))).toEqual([])
})

test('what is no profile is refused in one line', async () => {
  const text = renderProfile(profileOf({ abi: { 'cap.A.sys': 1 } }))
  const changed = (change: Partial<Record<keyof Profile, unknown>>) =>
    JSON.stringify({ ...JSON.parse(text), ...change })
  const refusal = (input: string) => {
    try {
      parseProfile(input, 'p.json')
    } catch (error) {
      return (error as Error).message
    }
    return 'accepted'
  }

  expect([
    refusal(text.slice(0, text.length / 2)),
    refusal(''),
    refusal('key: value'),
    refusal('{}'),
    refusal('null'),
    refusal(changed({ schema: 2 })),
    refusal(changed({ abi: undefined })),
    refusal(changed({ machine: { a: {} } })),
    refusal(changed({ volatile: [1] })),
    refusal(text),
  ]).toMatchInlineSnapshot(`
    [
      "read the profile: p.json: a profile that is cut short; make it again with kvitest abi dump",
      "read the profile: p.json: no profile: it is not JSON; make it again with kvitest abi dump",
      "read the profile: p.json: no profile: it is not JSON; make it again with kvitest abi dump",
      "read the profile: p.json: no profile: it is some other JSON; make it again with kvitest abi dump",
      "read the profile: p.json: no profile: it is some other JSON; make it again with kvitest abi dump",
      "read the profile: p.json: its schema is 2, this kvitest reads 1; make it again with kvitest abi dump",
      "read the profile: p.json: its part 'abi' is missing or damaged; make it again with kvitest abi dump",
      "read the profile: p.json: its part 'machine' is missing or damaged; make it again with kvitest abi dump",
      "read the profile: p.json: its part 'volatile' is missing or damaged; make it again with kvitest abi dump",
      "accepted",
    ]
  `)
})

test('a profile that is not there', async () => {
  const path = join(await directory(), 'none.json')

  await expect(readProfile(path)).rejects.toMatchObject({
    code: 'ENOENT',
    message: `read the profile: ${path}: ENOENT; give a file that kvitest abi dump wrote`,
  })
  await writeFile(path, 'x')
  await expect(readProfile(path)).rejects.toMatchObject({ code: 'EILSEQ' })
  expect(await readFile(path, 'utf8')).toBe('x')
})
