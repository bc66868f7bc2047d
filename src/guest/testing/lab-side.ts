/** Guests in one lab with programs of that lab beside them, for tests of what its kernel does for its guests. */
import { copyFile, mkdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, vi } from 'vitest'
import { openMachineHost, startLabs } from '../../host/index.ts'
import { fileHash } from '../../image/hash.ts'
import { builtFile, staticBusybox } from '../../image/initramfs.ts'
import { makePack, type Pack } from '../../image/pack.ts'
import type { DeviceSpec } from '../../native/contract.ts'
import { openHost } from '../host.ts'
import type { Guest } from '../types.ts'

const applets = 'sh ip ping nc cat head sha256sum sleep seq rmmod mkdir rmdir ln rm'.split(' ')

async function toolPack(): Promise<Pack> {
  const talk = await builtFile('programs/talk')
  return makePack('lab-side', `${await fileHash(talk)} ${applets}`, async (root) => {
    await mkdir(join(root, 'bin'))
    await copyFile(await staticBusybox(), join(root, 'bin/busybox'))
    await copyFile(talk, join(root, 'bin/talk'))
    for (const name of applets) await symlink('busybox', join(root, 'bin', name))
    return ['busybox-static']
  })
}

/** A busy machine that emulates stands still for long at times. */
export const idleLimit = 120_000
const deadline = 300_000

/** A background job of a shell that holds none of its streams. */
export const background = (command: string) => `(${command}) >/dev/null 2>&1 </dev/null &`
/** The other side may not be there yet. */
export const again = (command: string) =>
  `n=0; until ${command}; do n=$((n + 1)); [ $n -lt 200 ]; sleep 0.1; done`

/** What a script printed in the guest; it must succeed. */
export async function inside(guest: Guest, script: string): Promise<string> {
  const result = await guest.exec(['sh', '-ec', script], { timeout: deadline })
  expect(result, `${script}: ${result.stderr}`).toMatchObject({ status: 0 })
  return result.stdout.trim()
}

export interface LabSide {
  /** What a script printed in the lab, in its network; it must succeed. One at a time. */
  lab(script: string): Promise<string>
  /** A guest of the lab's own kernel, with `talk`. */
  boot(devices: DeviceSpec[]): Promise<Guest>
  close(): Promise<void>
}

export async function openLabSide(kernel: string): Promise<LabSide> {
  // One lab: its guests and its programs are in the same.
  const labs = await startLabs({ labs: 1, savedLabs: false })
  vi.stubEnv('KVITEST_LAB_SOCKET', labs.socket)
  const host = await openHost(`lab:${kernel}`)
  const machines = await openMachineHost(`lab:${kernel}`)
  const programs = await machines.openPrograms(await toolPack(), { cpus: 1, memory: 64 << 20 })
  return {
    lab: async (script) => {
      const argv = ['/bin/sh', '-ec', script]
      const result = await programs.run({ argv, network: 'host', deadline })
      expect(result, `${script}: ${result.stderr}`).toMatchObject({ status: 0 })
      return result.stdout.trim()
    },
    boot: async (devices) => {
      const files = { '/bin/talk': await builtFile('programs/talk') }
      return host.boot({ kernel, devices, files, bootTimeout: deadline, idleLimit })
    },
    close: async () => {
      await host.close()
      await machines.close()
      await labs.close({ save: false })
      vi.unstubAllEnvs()
    },
  }
}
