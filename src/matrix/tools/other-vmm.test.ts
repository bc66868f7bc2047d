/** Adapters of VMMs that are given by path, with a stand-in that says what it was called with and what it found there. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openLocalPrograms } from '../../host/program/local.ts'
import { runCommand } from '../../image/command.ts'
import type { ToolSetup } from '../machine.ts'
import type { Tool } from '../tool.ts'
import { cloudHypervisor, crosvm, firecracker, kvmtool, type OtherVmmOptions } from './other-vmm.ts'

const guest = 'debian:6.12-cloud'

const source = `#include <stdio.h>
#include <string.h>
static const char* kind(const char* path) {
  static char head[1024];
  FILE* file = fopen(path, "r");
  if (!file) return "absent";
  size_t size = fread(head, 1, sizeof(head) - 1, file);
  fclose(file);
  head[size] = 0;
  if (!memcmp(head, "\\177ELF", 4)) return "vmlinux";
  if (!memcmp(head, "070701", 6)) return "cpio";
  if (size > 0x206 && !memcmp(head + 0x202, "HdrS", 4)) return "bzImage";
  return head;
}
int main(int argc, char** argv) {
  if (argc == 2 && strstr(argv[1], "version")) { puts("stand-in 9.1\\nmore"); return 0; }
  for (int i = 1; i < argc; i++)
    printf("# %s%s%s\\n", argv[i], argv[i][0] == '/' ? " is " : "", argv[i][0] == '/' ? kind(argv[i]) : "");
  printf("ok 1 - it was called\\n# [    1.000000] a log line between\\nok 2 - it answers\\n1..2\\n");
  return 0;
}
`

let place: string

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-vmm-'))
  await writeFile(join(place, 'standin.c'), source)
  for (const [name, flags] of Object.entries({ static: ['-static'], dynamic: [] })) {
    const built = await runCommand(['gcc', '-o', join(place, name), join(place, 'standin.c'), ...flags])
    if (built.status !== 0) throw new Error(built.stderr)
  }
})

afterAll(() => rm(place, { recursive: true, force: true }))

async function called(tool: Tool, setup?: ToolSetup): Promise<{ said: string[]; version: string }> {
  const { pack, version, all } = await tool.prepare(guest, setup)
  const programs = openLocalPrograms(pack!)
  try {
    const results = await all!({ host: 'local', programs })
    const { output, ...run } = results.get('the run')!
    expect([...results].map(([name, { verdict }]) => [name, verdict])).toEqual([
      ['it was called', 'pass'],
      ['it answers', 'pass'],
      ['the run', 'pass'],
    ])
    expect(run.verdict).toBe('pass')
    const said = output.split('\n').filter((line) => line.startsWith('# '))
    return { said: said.map((line) => line.slice(2)), version }
  } finally {
    await programs.close()
  }
}

describe('the command line of', () => {
  const cmdline = 'console=ttyS0 loglevel=1 panic=-1 reboot=k'
  test.each<[string, (options: OtherVmmOptions) => Tool, string]>([
    [
      'kvmtool',
      kvmtool,
      `run|--name|guest|--cpus|1|--mem|256|--console|serial|--network|mode=none|--rng|--kernel|/guest/kernel is bzImage|--initrd|/guest/initramfs is cpio|--params|${cmdline}|--more`,
    ],
    [
      'cloud-hypervisor',
      cloudHypervisor,
      `--cpus|boot=1|--memory|size=256M|--serial|tty|--console|off|--rng|src=/dev/urandom|--kernel|/guest/kernel is vmlinux|--initramfs|/guest/initramfs is cpio|--cmdline|${cmdline}|--more`,
    ],
    [
      'crosvm',
      crosvm,
      `run|--disable-sandbox|--cpus|num-cores=1|--mem|size=256|--serial|type=stdout,hardware=serial,num=1,console|--initrd|/guest/initramfs is cpio|--params|${cmdline}|--more|/guest/kernel is bzImage`,
    ],
    [
      'firecracker',
      firecracker,
      `--no-api|--config-file|/guest/vm.json is {"boot-source":{"kernel_image_path":"/guest/kernel","initrd_path":"/guest/initramfs","boot_args":"${cmdline}"},"machine-config":{"vcpu_count":1,"mem_size_mib":256},"drives":[],"entropy":{}}|--more`,
    ],
  ])('%s is what its documentation says, and what it names is there', async (_, make, expected) => {
    const { said, version } = await called(make({ path: join(place, 'static'), arguments: ['--more'] }))
    expect(said.filter((line) => !line.startsWith('['))).toEqual(expected.split('|'))
    expect(version).toBe('stand-in 9.1')
  })
})

test('a program with shared libraries runs from its pack, with the machine of the matrix', async () => {
  const setup = { accelerator: 'kvm', machine: { cpus: 2, memory: '1G' } }
  const { said } = await called(cloudHypervisor({ path: join(place, 'dynamic') }), setup)
  expect(said.slice(0, 4)).toEqual(['--cpus', 'boot=2', '--memory', 'size=1024M'])
})

describe('a path that is no VMM is refused in one line:', () => {
  const refused = (path: string) => kvmtool({ path, name: 'lkvm' }).prepare(guest)

  test('nothing is there', async () => {
    await expect(refused('/opt/nowhere/lkvm')).rejects.toThrow(
      /^find lkvm: \/opt\/nowhere\/lkvm: no such file; give the path of a program of lkvm in the matrix$/,
    )
  })

  test('it cannot be executed', async () => {
    const path = join(place, 'plain')
    await writeFile(path, '')
    await chmod(path, 0o644)
    await expect(refused(path)).rejects.toThrow(/^find lkvm: .*plain: not executable; give the path/)
  })

  test('it is a folder', async () => {
    await expect(refused(place)).rejects.toThrow(/^find lkvm: .*: not a file; /)
  })

  test('it is a script', async () => {
    const path = join(place, 'script')
    await writeFile(path, '#!/bin/sh\n', { mode: 0o755 })
    await expect(refused(path)).rejects.toThrow(
      /^pack lkvm: .*script: no ELF file .*; give the program itself/,
    )
  })
})
