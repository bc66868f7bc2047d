/** The devices of a machine, as its spec names them: a part of contract.ts, which exports it. */

export interface ConsolePort {
  name: string
  /** An hvc console port, not a named data port. */
  console?: boolean
}

/** What every virtio device's spec may say. */
export interface VirtioDevice {
  /**
   * Features that the driver is not offered, by the specification's names in lower case without their prefix: `discard`
   * is VIRTIO_BLK_F_DISCARD. `indirect_desc` and `event_idx` for any device, the others as its README lists them.
   */
  withoutFeatures?: string[]
  /**
   * Features that are offered only when asked for: the transport's `ring_packed`, `in_order`, `notification_data`, `ring_reset`,
   * and what the device's README names.
   */
  withFeatures?: string[]
  /**
   * Deliberate oddities, of an old, buggy or hostile device: `used-length-whole-chain`, `used-length-too-long` or
   * `used-length-zero`; `queue-size-odd`, `queue-size-fixed`; `pci-status-clears-capabilities`. What each does:
   * native/virtio/README.md.
   */
  personality?: string[]
  /** Default `pci`. A `mmio` device is one that ACPI names, with a level-triggered interrupt. */
  transport?: Transport
}

export type Transport = 'pci' | 'mmio'

export interface ConsoleDevice extends VirtioDevice {
  type: 'virtio-console'
  ports: ConsolePort[]
}

export interface RngDevice extends VirtioDevice {
  type: 'virtio-rng'
}

/** What a network device is plugged into. */
export type NetBackend =
  /** A network with one machine, 192.0.2.1/24, that answers ARP, ICMP echo, UDP and TCP echo (7), TCP discard (9). */
  | { kind: 'peer' }
  /** A switch between the guests of one process (of one lab) that name the same network. */
  | { kind: 'switch'; network: string }
  /**
   * A tap interface of the host, or of the lab: its network stack is the other end. It is made when it is not there,
   * which takes CAP_NET_ADMIN; somebody of the host sets it up. One guest has it at a time. `vhost`: the host's kernel
   * moves the frames (`/dev/vhost-net`), of one queue pair and without control queue. Default false.
   */
  | { kind: 'tap'; interface: string; vhost?: boolean }

export interface NetDevice extends VirtioDevice {
  type: 'virtio-net'
  /** Of its own among the machine's devices. */
  name: string
  /** Default: 02:6b:76:00:01:NN, NN its place among the machine's devices. */
  mac?: string
  /** 68..65535; VIRTIO_NET_F_MTU is offered when it is given. */
  mtu?: number
  /** Queue pairs, 1..8; VIRTIO_NET_F_MQ is offered from 2 on. Default 1. */
  queues?: number
  backend: NetBackend
}

/** How a file is read: by io_uring, the default where the kernel allows it, or by threads of ours. It is written by threads. */
export type FileEngine = 'io_uring' | 'threads'

/**
 * What holds the bytes of a disk: zeros in memory, so many bytes; a file that the guest writes to; or a file that stays as
 * it is, and what is written is kept in memory. A fork's disk is always an overlay over its checkpoint's content.
 */
export type DiskBacking = { memory: number } | { file: string; engine?: FileEngine } | { overlay: string }

export interface BlkDevice extends VirtioDevice {
  type: 'virtio-blk'
  /** Of the disk, for the host; the guest sees the serial. */
  name: string
  backing: DiskBacking
  readOnly?: boolean
  /** At most 20 bytes. */
  serial?: string
  /** 1..8; default 1. */
  queues?: number
  /** A power of two up to 1024; default 256. */
  queueSize?: number
  /** Logical: 512 (default), 1024, 2048, 4096. */
  blockSize?: number
}

/** What a vsock's connections are on the host. */
export type VsockBackend =
  /** Streams of the guest's owner alone, vsockListen() and vsockConnect(). */
  | { kind: 'streams' }
  /**
   * AF_VSOCK of the host, or of the lab: its kernel serves the rings (`/dev/vhost-vsock`), and any program of it speaks
   * with the guest, by its CID, which no other guest of the host may have. So do vsockListen() and vsockConnect().
   */
  | { kind: 'vhost' }
  /**
   * Streams, and Unix sockets of the host, or of the lab, by Firecracker's convention: a client of `path` says
   * `CONNECT PORT\n`, is answered `OK HOSTPORT\n` and is then connected to that port of the guest; what the guest
   * connects to a port of the host goes to `path_PORT`, unless vsockListen() has it. At most 96 bytes.
   */
  | { kind: 'unix'; path: string }

export interface VsockDevice extends VirtioDevice {
  type: 'virtio-vsock'
  /** Of its own among the machine's devices; no #. */
  name: string
  /** 3..4294967294; default 3. */
  cid?: number
  /** Default: streams. */
  backend?: VsockBackend
}

export interface BalloonDevice extends VirtioDevice {
  type: 'virtio-balloon'
  /** Of its own among the machine's devices. */
  name: string
}

/** A directory, by 9P2000.L: `mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt`. */
export interface P9Device extends VirtioDevice {
  type: 'virtio-9p'
  /** 1 to 31 bytes; of its own among the machine's. */
  tag: string
  /** The directory; nothing outside of it can be reached. It is no part of a checkpoint: forks work in the same one. */
  path: string
  readOnly?: boolean
}

/** A logical unit of a virtio-scsi: a disk that begins as zeros, kept in memory. */
export interface ScsiLun {
  /** Of the disk, for the host; of its own among all disks of the machine. */
  name: string
  /** Bytes, a multiple of the block size. */
  memory: number
  /** 0..7; default 0. */
  target?: number
  /** 0..255; default 0. Of its own on its target. */
  lun?: number
  readOnly?: boolean
  /** At most 36 printable ASCII characters. */
  serial?: string
  /** Logical: 512 (default), 1024, 2048, 4096. */
  blockSize?: number
}

/**
 * A target of the host's kernel, or of the lab's (`/dev/vhost-scsi`; configfs, target/vhost), by its WWPN: its units are
 * the device's, each at the target that its portal group's number is. One guest has it at a time; no checkpoint is made.
 */
export type ScsiBackend = { kind: 'vhost'; wwpn: string }

export interface ScsiDevice extends VirtioDevice {
  type: 'virtio-scsi'
  /** Of its own among the machine's virtio-scsi devices. */
  name: string
  /** None beside a backend. */
  luns: ScsiLun[]
  /** Default: a target of our own, which has `luns`. */
  backend?: ScsiBackend
  /** Of requests, 1..8; default 1. */
  queues?: number
  /** A power of two up to 1024; default 128. */
  queueSize?: number
}

export type DeviceSpec =
  | ConsoleDevice
  | RngDevice
  | BlkDevice
  | NetDevice
  | VsockDevice
  | BalloonDevice
  | P9Device
  | ScsiDevice
