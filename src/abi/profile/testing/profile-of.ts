import { type Profile, profileKind, profileSchema } from '../profile.ts'

/** A profile with these parts, and the others empty. */
export function profileOf(parts: Partial<Profile>): Profile {
  return {
    kind: profileKind,
    schema: profileSchema,
    environment: {},
    abi: {},
    machine: {},
    volatile: [],
    ...parts,
  }
}
