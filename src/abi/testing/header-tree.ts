/** Header trees of a few lines, real to the compiler, for tests. */
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

const files: Record<string, string> = {
  'linux/types.h': `typedef unsigned char __u8; typedef unsigned short __u16; typedef unsigned int __u32;
typedef int __s32; typedef unsigned long long __u64;\n`,
  'linux/ioctl.h': `#define _IOC(d, t, n, s) (((d) << 30) | ((t) << 8) | (n) | ((s) << 16))
#define _IO(t, n) _IOC(0U, t, n, 0)
#define _IOW(t, n, s) _IOC(1U, t, n, sizeof(s))
#define _IOR(t, n, s) _IOC(2U, t, n, sizeof(s))\n`,
  'linux/kvm_para.h': '',
  'asm/kvm_para.h': '',
  'asm/kvm.h': '',
}

/** A folder such as usr/include whose linux/kvm.h is `text`; the caller removes it. */
export async function makeTree(text: string, more: Record<string, string> = {}): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'kvitest-headers-'))
  const all = {
    ...files,
    ...more,
    'linux/kvm.h': `#include <linux/types.h>\n#include <linux/ioctl.h>\n#include <asm/kvm.h>\n${text}`,
  }
  for (const [path, content] of Object.entries(all)) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), content)
  }
  return root
}
