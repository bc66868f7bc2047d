/** A kernel that is on this machine now: image, modules, config, version. */
export interface KernelInfo {
  /** As asked for: `debian:6.12-cloud` or a path. */
  name: string
  /** uname -r: `6.12.117+deb12-cloud-amd64`; from the image itself. */
  release: string
  /** Debian's package version where there is one: `6.12.117-1~deb12u1`. */
  packageVersion?: string
  /** Absolute path of the bzImage or vmlinux. */
  image: string
  /** Absolute path of lib/modules/<release>, absent for a kernel given as a bare image. */
  modules?: string
  config?: string
  systemMap?: string
  /** sha256 of the image, hexadecimal. */
  hash: string
}
