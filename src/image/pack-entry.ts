/** One member of a pack; `path` is relative to its root. */
export type PackEntry =
  | { kind: 'file'; path: string; sha256: string; size: number }
  | { kind: 'link'; path: string; target: string }

/** What is mounted over when a program runs; there in every pack. */
export const mountPoints = ['dev', 'proc', 'sys', 'tmp', 'run'] as const
