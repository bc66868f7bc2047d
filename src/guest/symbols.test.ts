import { expect, test } from 'vitest'
import { SymbolTable } from './symbols.ts'

const kallsyms = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff810f56b0 t param_attr_store
ffffffff810f5750 D jiffies
ffffffff82600000 T last_in_kernel
ffffffffc0207090 t provoke_spin\t[provoke]
ffffffffc02070b0 t provoke_halt\t[provoke]
no line of it
`

test.for([
  [0xffffffff81000000n, '_text+0x0'],
  [0xffffffff810f56b1n, 'param_attr_store+0x1'],
  [0xffffffffc02070a1n, 'provoke_spin+0x11 [provoke]'],
  [0xffffffffc02070b0n, 'provoke_halt+0x0 [provoke]'],
  // Far behind the last function of the kernel: nowhere, rather than in it.
  [0xffffffff90000000n, undefined],
  [0x47b7a0n, undefined],
] as const)('%s is %s', ([address, name]) => {
  expect(SymbolTable.parse(kallsyms).find(address)).toBe(name)
})

test('data has no place among functions, and the start of the kernel is known', () => {
  const table = SymbolTable.parse(kallsyms)
  expect([table.size, table.start]).toEqual([6, 0xffffffff81000000n])
})

test('a guest that hides its addresses has no names', () => {
  const hidden = SymbolTable.parse(kallsyms.replaceAll(/^f{8}\w{8}/gm, '0000000000000000'))
  expect([hidden.size, hidden.find(0xffffffff81000000n)]).toEqual([0, undefined])
})
