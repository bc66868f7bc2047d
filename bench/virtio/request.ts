/** What the two sides of `npm run bench -- virtio` say to each other. */

/**
 * `streams`: Node of the VMM's process takes the bytes; `unix`: a C program at a Unix socket; `vhost`: the lab's kernel has
 * the device, and the C program an AF_VSOCK socket, as with QEMU.
 */
export type VsockBackend = 'streams' | 'unix' | 'vhost'

export interface SideRequest {
  vmm: 'kvitest' | 'qemu'
  /** Milliseconds of each load. */
  ms: number
  /** Loads whose name begins so; a pattern of the shell. */
  only?: string
  /** Of kvitest; QEMU's is always a file. */
  disk: 'file' | 'memory'
  /** With packed rings, both. */
  packed: boolean
  /** Of kvitest: what is behind its vsock. */
  vsock: VsockBackend
}

export interface LoadResult {
  load: string
  requests: number
  bytes: number
  seconds: number
  /** Of the host kernel's KVM, while the load ran: `exits`, `io_exits`... */
  counts: Record<string, number>
}
