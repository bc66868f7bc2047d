/** Names of a kernel's code by address, from its /proc/kallsyms. */
export class SymbolTable {
  readonly #addresses: BigUint64Array
  readonly #names: string[]
  /** Of the kernel's own text; 0 when the guest hides addresses. */
  readonly start: bigint

  private constructor(addresses: BigUint64Array, names: string[], start: bigint) {
    this.#addresses = addresses
    this.#names = names
    this.start = start
  }

  /** Reads `ADDRESS TYPE NAME [MODULE]` lines; of others, and of data, nothing is kept. */
  static parse(text: string): SymbolTable {
    const found: { address: bigint; name: string }[] = []
    let start = 0n
    for (const [, digits, name, module] of text.matchAll(symbolLine)) {
      const address = BigInt(`0x${digits}`)
      if (address < lowestKernelAddress) continue
      if (name === '_text') start = address
      found.push({ address, name: module ? `${name} ${module}` : name! })
    }
    found.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0))
    const addresses = new BigUint64Array(found.length)
    for (const [at, { address }] of found.entries()) addresses[at] = address
    return new SymbolTable(
      addresses,
      found.map(({ name }) => name),
      start,
    )
  }

  get size(): number {
    return this.#names.length
  }

  /** `provoke_spin+0x11 [provoke]`; undefined for an address in no function that is known. */
  find(address: bigint): string | undefined {
    let low = 0
    let high = this.#addresses.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#addresses[middle]! <= address) low = middle + 1
      else high = middle
    }
    if (low === 0) return undefined
    const offset = address - this.#addresses[low - 1]!
    // Behind the last function of the kernel or of a module.
    if (offset > largestFunction) return undefined
    // Several names of one place: the first is the kernel's own choice too.
    const at = this.#addresses.indexOf(this.#addresses[low - 1]!)
    const [name, module] = this.#names[at]!.split(' ')
    return `${name}+0x${offset.toString(16)}${module ? ` ${module}` : ''}`
  }
}

const symbolLine = /^([0-9a-f]{16}) [tTwW] (\S+)(?:[ \t]+(\[\S+\]))?$/gm
/** The upper half: a user's address is in no symbol table. */
const lowestKernelAddress = 1n << 63n
const largestFunction = 0x10000n

/** Names for the addresses of one guest; rejects with the reason when there are none. */
export type SymbolSource = () => Promise<SymbolTable>
