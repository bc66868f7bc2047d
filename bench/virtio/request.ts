/** What the two sides of `npm run bench -- virtio` say to each other. */

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
  /** Of kvitest: devices that vhost of the lab's kernel can serve, it serves. */
  vhost: boolean
}

export interface LoadResult {
  load: string
  requests: number
  bytes: number
  seconds: number
  /** Of the host kernel's KVM, while the load ran: `exits`, `io_exits`... */
  counts: Record<string, number>
}
