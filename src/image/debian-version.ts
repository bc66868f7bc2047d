/** Order of one character in a non-digit part: `~` before the end, the end before letters, letters before the rest. */
function rank(character: string | undefined): number {
  if (character === '~') return -1
  if (character === undefined || /\d/.test(character)) return 0
  return /[a-zA-Z]/.test(character) ? character.charCodeAt(0) : character.charCodeAt(0) + 256
}

function comparePart(a: string, b: string): number {
  let i = 0
  let j = 0
  while (i < a.length || j < b.length) {
    while ((i < a.length && !/\d/.test(a[i]!)) || (j < b.length && !/\d/.test(b[j]!))) {
      const difference = rank(a[i]) - rank(b[j])
      if (difference !== 0) return difference
      i++
      j++
    }
    const left = /^\d*/.exec(a.slice(i))![0]
    const right = /^\d*/.exec(b.slice(j))![0]
    const difference = Number(left) - Number(right)
    if (difference !== 0) return difference
    i += left.length
    j += right.length
  }
  return 0
}

function split(version: string): { epoch: number; upstream: string; revision: string } {
  const colon = version.indexOf(':')
  const rest = version.slice(colon + 1)
  const dash = rest.lastIndexOf('-')
  return {
    epoch: colon < 0 ? 0 : Number(version.slice(0, colon)),
    upstream: dash < 0 ? rest : rest.slice(0, dash),
    revision: dash < 0 ? '' : rest.slice(dash + 1),
  }
}

/** Compares two Debian package versions (Debian Policy 5.6.12): negative, zero or positive. */
export function compareVersions(a: string, b: string): number {
  const left = split(a)
  const right = split(b)
  return (
    left.epoch - right.epoch ||
    comparePart(left.upstream, right.upstream) ||
    comparePart(left.revision, right.revision)
  )
}

/** `6.12.117` of `6.12.117-1~deb12u1` */
export function upstreamVersion(version: string): string {
  return split(version).upstream
}
