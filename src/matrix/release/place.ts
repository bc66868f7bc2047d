/** What a release puts into the pack of its own VMM, and where its program finds it there. */

/** `pack.ts` of a release makes it, with this number; whoever runs it knows what is inside. */
export const RELEASE_FORMAT = 1

export interface PackedGuest {
  format: number
  /** As asked for, and as the kernel says: `debian:6.1-cloud`, `6.1.0-57-cloud-amd64`. */
  kernel: string
  release: string
}

export const guestFolder = 'guest'
/** In that folder. */
export const guestFiles = {
  about: 'guest.json',
  image: 'image',
  initramfs: 'initramfs',
  script: 'script',
} as const

/** The program of the pack; its output is the script's, its standard error the guest's console. */
export const program = ['/bin/node', '/kvitest/src/matrix/release/main.js']
