import { expect, test } from 'vitest'
import { qemuArguments } from './qemu.ts'

const lab = { kernel: 'k', initramfs: 'i', cpus: 4, memory: 2 ** 30, tscKhz: 2_596_122 }

function kernelCommandLine(accelerator: 'tcg' | 'nested'): string {
  const argv = qemuArguments({ ...lab, accelerator })
  return argv[argv.indexOf('-append') + 1]!
}

test('an emulated lab is told how fast its clock is, a nested one knows', () => {
  expect(kernelCommandLine('tcg')).toContain(' tsc_early_khz=2596122')
  expect(kernelCommandLine('nested')).not.toContain('tsc_early_khz')
})

test('an emulated lab has one CPU whatever was asked for', () => {
  expect(qemuArguments({ ...lab, accelerator: 'tcg' }).join(' ')).toContain('-smp 1 ')
  expect(qemuArguments({ ...lab, accelerator: 'nested' }).join(' ')).toContain('-smp 4 ')
})
