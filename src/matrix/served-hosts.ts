import { type ServedBuild, servedBuilds } from '../image/debian-kernel.ts'
import { KvitestError } from '../native/error.ts'

/** A lab for every build that Debian serves of these lines (`6.12`), line by line, the oldest first. */
export async function servedHosts(lines: readonly string[]): Promise<`lab:${string}`[]> {
  return hostsOfBuilds(lines, await servedBuilds(lines))
}

export function hostsOfBuilds(
  lines: readonly string[],
  builds: readonly Pick<ServedBuild, 'name' | 'line'>[],
): `lab:${string}`[] {
  const alone = lines.find((line) => builds.filter((build) => build.line === line).length < 2)
  // An archive always has several: lists of packages that know one are no archive's.
  if (alone !== undefined) {
    throw new KvitestError('list the builds that Debian serves', `of ${alone} there is one only`, {
      code: 'ENODATA',
      hint: 'apt-get update renews the package lists; kvitest kernel ls shows them',
    })
  }
  return builds.map(({ name }) => `lab:${name}` as const)
}
