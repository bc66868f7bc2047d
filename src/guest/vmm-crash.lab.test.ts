/** Real guests whose VMM fails under them: what is said of them, and who goes on. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { closeOwnLabs } from '../host/index.ts'
import { openHost } from './host.ts'
import type { Guest, Host } from './types.ts'

/** Labs of this file alone: one of them dies. */
let host: Host
/** On the labs of the run. */
let elsewhere: Guest
let others: Host

beforeAll(async () => {
  others = await openHost('lab')
  elsewhere = await others.fork()
  const shared = process.env.KVITEST_LAB_SOCKET
  delete process.env.KVITEST_LAB_SOCKET
  try {
    host = await openHost('lab')
  } finally {
    process.env.KVITEST_LAB_SOCKET = shared
  }
})

afterAll(async () => {
  await host?.close()
  await closeOwnLabs({ save: false })
  await others?.close()
})

/** The end of a guest under whose script the fault happens. */
async function endUnder(guest: Guest, fault: 'throw' | 'abort') {
  const running = guest.run('#!/bin/sh\necho 1..1\necho ok 1\nsleep 1000\n').catch((error) => error)
  await guest.exec(['true'])
  // Of an abort nobody is left to answer.
  guest.faultVmm(fault).catch(() => {})
  const error = await running
  return { end: await guest.ended, error }
}

test('a thread of the VMM throws: vmm-crash of its guest alone', async () => {
  const [guest, other] = await Promise.all([host.fork(), host.fork()])
  const { end, error } = await endUnder(guest, 'throw')
  expect(end).toMatchObject({ verdict: 'vmm-crash', reason: 'vCPU 0: a fault that was asked for' })
  expect(end.evidence).toContain('machine: vCPU 0: a fault that was asked for')
  expect(error.message).toContain('vmm-crash: vCPU 0: a fault that was asked for')
  expect((await other.exec(['echo', 'alive'])).stdout).toBe('alive\n')
  await other.stop()
})

test('a thread of the VMM aborts: vmm-crash of all guests of its process, others go on', async () => {
  const guest = await host.fork()
  const { end } = await endUnder(guest, 'abort')
  expect(end).toMatchObject({
    verdict: 'vmm-crash',
    reason: expect.stringMatching(
      /^use a lab: lab:\S+: the process of its VMM was ended by SIGABRT; its console ends: .*the server ended with status 134/,
    ),
  })
  expect((await elsewhere.exec(['echo', 'alive'])).stdout).toBe('alive\n')
  const next = await host.fork()
  expect((await next.exec(['echo', 'alive'])).stdout).toBe('alive\n')
  await next.stop()
  await elsewhere.stop()
})
