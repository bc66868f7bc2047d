/** The ways in which a guest can end badly: rows of docs/verdicts.md. */

import { fileURLToPath } from 'node:url'
import type { Guest, GuestEnd } from 'kvitest'

/** A module that misbehaves on request. */
export const provoke = fileURLToPath(new URL('../../fixtures/modules/provoke.c', import.meta.url))

export interface Provocation {
  /** As docs/verdicts.md names it. */
  name: string
  /** Run by the shell in the guest; a script that lives on says `ok`. */
  script: string
  verdict: GuestEnd['verdict']
  reason: RegExp
  /** Something that the evidence must show. */
  evidence?: RegExp
  cpus?: number
}

const ask = (word: string) => `echo ${word} >/sys/module/provoke/parameters/do`

export const provocations: Provocation[] = [
  {
    name: 'sysrq-c',
    script: 'echo c >/proc/sysrq-trigger',
    verdict: 'panic',
    reason: /^Kernel panic - not syncing: sysrq triggered crash/,
  },
  {
    name: 'panic()',
    script: ask('panic'),
    verdict: 'panic',
    reason: /^Kernel panic - not syncing: kvitest asked for this/,
    evidence: /provoke_panic/,
  },
  {
    name: 'the init process dies',
    // The agent's own code becomes instructions that do not exist.
    script: `
      range=$(awk '/r-xp/ && /init/ { print $1; exit }' /proc/1/maps)
      from=$((0x\${range%-*})) to=$((0x\${range#*-}))
      yes "$(printf '\\017\\013')" | tr -d '\\n' | head -c $((to - from)) |
        dd of=/proc/1/mem bs=4096 seek=$((from / 4096)) conv=notrunc iflag=fullblock 2>/dev/null
      sleep 30`,
    verdict: 'panic',
    reason: /Attempted to kill init/,
  },
  {
    name: 'memory runs out and nobody can be killed',
    script: `
      echo -1000 >/proc/self/oom_score_adj
      mkdir /fill && mount -t tmpfs -o size=100G fill /fill
      dd if=/dev/zero of=/fill/all bs=1M`,
    verdict: 'panic',
    reason: /System is deadlocked on memory/,
  },
  {
    name: 'WARN',
    script: ask('warn'),
    verdict: 'oops',
    reason: /^WARNING: .*provoke\.c:\d+ .*provoke_warn/,
    evidence: /kvitest asked for this|provoke_warn/,
  },
  { name: 'BUG', script: `(${ask('bug')})`, verdict: 'oops', reason: /^kernel BUG at provoke\.c:\d+/ },
  {
    name: 'a NULL pointer is dereferenced',
    script: `(${ask('null')})`,
    verdict: 'oops',
    reason: /^BUG: kernel NULL pointer dereference, address: 0000000000000000/,
    evidence: /RIP: 0010:provoke_null/,
  },
  {
    name: 'general protection fault',
    script: `(${ask('gpf')})`,
    verdict: 'oops',
    reason: /general protection fault, probably for non-canonical address 0xdead000000000122/,
  },
  {
    name: 'soft lockup',
    script: `echo 1 >/proc/sys/kernel/watchdog_thresh; ${ask('soft-lockup')}`,
    verdict: 'oops',
    reason: /BUG: soft lockup - CPU#0 stuck for/,
    evidence: /provoke_soft_lockup/,
  },
  {
    name: 'RCU stall',
    // One to stall, one for the thread that waits for it.
    cpus: 2,
    script: `echo 3 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout; ${ask('rcu-stall')}`,
    verdict: 'oops',
    reason: /rcu.*stall/i,
    evidence: /provoke_rcu_stall/,
  },
  {
    name: 'hung task',
    script: `echo 1 >/proc/sys/kernel/hung_task_timeout_secs; ${ask('hung-task')}`,
    verdict: 'oops',
    reason: /INFO: task .* blocked for more than \d+ seconds/,
    // Below the level of an emulated host's console: from the kernel's own log.
    evidence: /schedule_timeout[\s\S]*provoke\+0x/,
  },
  {
    name: 'a vCPU spins with interrupts off',
    script: ask('spin'),
    verdict: 'hang',
    reason: /; vCPU 0 spins at provoke_spin\+0x\w+ \[provoke\], interrupts off$/,
    evidence: /asked the kernel \(an NMI to vCPU 0.*\n(.*\n)*.*RIP: 0010:provoke_spin/,
  },
  {
    name: 'a vCPU halts with interrupts off',
    script: ask('halt'),
    verdict: 'hang',
    reason: /; vCPU 0 halted at provoke_halt\+0x\w+ \[provoke\], interrupts off$/,
    evidence: /asked the kernel \(an NMI to vCPU 0.*\n(.*\n)*.*RIP: 0010:provoke_halt/,
  },
  {
    name: 'the guest is stuck in its shutdown',
    script: ask('stuck-shutdown'),
    verdict: 'hang',
    reason:
      /^no power-off for 5 s after it was asked for; vCPU 0 spins at provoke_stuck\+0x\w+ \[provoke\], interrupts on$/,
    evidence: /asked the kernel \(a break and 'l' .*\n(.*\n)*.*RIP: 0010:provoke_stuck/,
  },
  {
    name: 'triple fault',
    script: ask('triple-fault'),
    verdict: 'fail',
    reason: /triple-faulted while a script/,
  },
  {
    name: 'an instruction that KVM cannot emulate',
    script: ask('internal-error'),
    verdict: 'vmm-crash',
    reason: /KVM could not emulate an instruction/,
  },
  {
    name: 'the guest powers off under its script',
    script: 'poweroff -f',
    verdict: 'fail',
    reason: /powered off while a script/,
  },
]

/** Runs a script of one point to its end, or the guest's. */
export async function endOf(guest: Guest, script: string): Promise<GuestEnd> {
  // A script that is cut off rejects; how its guest ended is what we are here for.
  await guest.run(`#!/bin/sh\necho 1..1\n${script}\necho ok 1\n`, { timeout: 60_000 }).catch(() => {})
  return guest.stop()
}
