/** What the pack of a checkpoint has, beside the program that restores it, and what its guest has. */

/** The file that GuestCheckpoint.save() wrote. */
export const packed = 'guest/checkpoint'

/** The program of the pack; its output is TAP, its standard error the guest's console. */
export const program = ['/bin/node', '/kvitest/src/matrix/checkpoint/main.js']

/** Its first point. */
export const RESTORED = 'the checkpoint is restored'

/** In the guest: what its program says of its registers. */
export const registersFile = '/tmp/registers'
