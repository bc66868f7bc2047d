/**
 * The agent protocol, version 2: docs/agent-protocol.md says what it means, native/agent/protocol.h is the
 * agent's copy, protocol.test.ts compares the three.
 */
export const agentPort = 'org.kvitest.agent'
export const protocolVersion = 2
export const frameHeader = 12
export const framePayloadMax = 65536

export const toAgent = {
  HELLO: 1,
  EXEC: 2,
  STDIN: 3,
  STDIN_EOF: 4,
  SIGNAL: 5,
  WINSIZE: 6,
  FILE: 7,
  PING: 8,
  POWEROFF: 9,
  FORKED: 10,
} as const

export const toHost = {
  HELLO: 101,
  STARTED: 102,
  STDOUT: 103,
  STDERR: 104,
  EXIT: 105,
  ERROR: 106,
  PONG: 107,
  STDIN_CREDIT: 108,
  DONE: 109,
} as const

export const execFlags = { PTY: 1, STDIN: 2, MERGE: 4 } as const
export const exitKind = { EXITED: 0, SIGNALED: 1, TIMED_OUT: 2 } as const
export const power = { OFF: 0, REBOOT: 1 } as const
