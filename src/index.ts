/** The public face of kvitest: exports only. */
export {
  CAP,
  type CapabilityName,
  type ConstantName,
  constant,
  EXIT,
  type ExitReasonName,
  type FieldName,
  type FieldValue,
  type FieldValues,
  fieldOf,
  type IoctlName,
  KVM,
  offsetOf,
  type StructName,
  sizeOf,
  structOf,
  withFields,
} from './abi/api.ts'
export {
  type Catalogue,
  catalogue,
  catalogueOf,
  type ExitReason,
  type Ioctl,
} from './abi/catalogue/catalogue.ts'
export { openHost } from './guest/host.ts'
export type {
  BalloonStatistics,
  BootOptions,
  ConsoleLog,
  ExecOptions,
  ExecResult,
  Guest,
  GuestBalloon,
  GuestDisk,
  GuestEnd,
  GuestPort,
  GuestProcess,
  GuestScsi,
  GuestVsock,
  Host,
  RunOptions,
  RunResult,
  SpawnOptions,
  VsockListener,
} from './guest/types.ts'
export type { KernelFacts } from './host/kernel-facts.ts'
export type { HostInfo } from './host/machine-host.ts'
export { type GuestCode, guestCode } from './host/raw/guest-code.ts'
export {
  type IoctlOptions,
  ioctlCall,
  type RawAnswer,
  RawFd,
  RawKvm,
  RawMemory,
  type RawVcpu,
  type RunAnswer,
} from './host/raw/kvm.ts'
export type { RawStep } from './host/raw/place.ts'
export { mmioDataOffset, RunArea } from './host/raw/run-area.ts'
export type { KernelInfo } from './image/kernel.ts'
export { resolveKernel } from './image/resolve.ts'
export type {
  BalloonReport,
  DeviceSpec,
  DiskReport,
  MachineEnd,
  ScsiLun,
  VcpuState,
  VmmFault,
} from './native/contract.ts'
export { KvitestError } from './native/error.ts'
export { TapStream } from './tap/stream.ts'
export type { Point, TapSummary } from './tap/types.ts'
export type { AllowedSplat } from './verdict/expectations.ts'
export type { Judgement, Verdict } from './verdict/types.ts'
