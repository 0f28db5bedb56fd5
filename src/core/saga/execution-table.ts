/**
 * The executions of a saga by their number, never changed in place. A saga of 500 steps makes a thousand images, the
 * checkpointer reads an older one while newer ones are decided, and a decision may be thrown away: so a changed table
 * shares all but one path with the table before it. Source: Bagwell and Rompf, "RRB-Trees: Efficient Immutable
 * Vectors", EPFL, 2011, section 2 (the plain radix trie). A shared log with a length for each image was rejected: what
 * has ended changes again when it is compensated.
 */
import { InvariantViolation } from '../errors.ts'
import type { Execution } from './image.ts'

const BITS = 5
const WIDTH = 1 << BITS
const MASK = WIDTH - 1

type TrieNode = readonly (TrieNode | Execution)[]

/** Executions from 1 on without gaps. Reading or changing one costs the logarithm to base 32 of how many there are. */
export class ExecutionTable {
  /** No executions. */
  static readonly EMPTY: ExecutionTable = new ExecutionTable(0, 0, [])
  /** How many there are: the number of the last one. */
  readonly length: number
  readonly #shift: number
  readonly #root: TrieNode

  private constructor(length: number, shift: number, root: TrieNode) {
    this.length = length
    this.#shift = shift
    this.#root = root
  }

  /** The execution with this number. */
  get(n: number): Execution | undefined {
    if (n < 1 || n > this.length || !Number.isInteger(n)) return undefined
    return this.#at(n)
  }

  /** The table with this execution, in place of the one with its number or after the last one. */
  with(execution: Execution): ExecutionTable {
    const { n } = execution
    if (n < 1 || n > this.length + 1)
      throw new InvariantViolation(`execution ${n} of ${this.length} is out of its turn`)
    const index = n - 1
    const length = Math.max(this.length, n)
    if (index >>> this.#shift >= WIDTH) {
      const shift = this.#shift + BITS
      return new ExecutionTable(length, shift, changed([this.#root], shift, index, execution))
    }
    return new ExecutionTable(length, this.#shift, changed(this.#root, this.#shift, index, execution))
  }

  /** The last execution that is as asked; searches from the end. */
  findLast(isIt: (execution: Execution) => boolean): Execution | undefined {
    for (let n = this.length; n > 0; n--) {
      const execution = this.#at(n)
      if (isIt(execution)) return execution
    }
    return undefined
  }

  /** The executions in the order of their numbers. */
  *[Symbol.iterator](): IterableIterator<Execution> {
    for (let n = 1; n <= this.length; n++) yield this.#at(n)
  }

  /** The executions that an earlier table has otherwise or not at all, by number. What both share isn't looked at. */
  changedSince(previous: ExecutionTable): readonly Execution[] {
    let old: TrieNode = previous.#root
    for (let shift = previous.#shift; shift < this.#shift; shift += BITS) old = [old]
    return collected(this.#root, old, this.#shift, NONE)
  }

  #at(n: number): Execution {
    const index = n - 1
    let branch = this.#root
    for (let shift = this.#shift; shift > 0; shift -= BITS)
      branch = branch[(index >>> shift) & MASK] as TrieNode
    return branch[index & MASK] as Execution
  }
}

function changed(branch: TrieNode, shift: number, index: number, execution: Execution): TrieNode {
  const slot = (index >>> shift) & MASK
  const item =
    shift === 0
      ? execution
      : changed((branch[slot] as TrieNode | undefined) ?? [], shift - BITS, index, execution)
  const copy = branch.slice()
  if (slot === branch.length) return withOneMore(copy, item)
  copy[slot] = item
  return copy
}

const NONE: Execution[] = []

/** An array that grows takes room for many at once: where it is short, another one is made. */
function withOneMore<Item>(list: Item[], item: Item): Item[] {
  if (list.length === 0) return [item]
  if (list.length === 1) return [list[0] as Item, item]
  list.push(item)
  return list
}

/** What was found before, and what is found here. */
function collected(branch: TrieNode, old: TrieNode, shift: number, before: Execution[]): Execution[] {
  let found = before
  for (let slot = 0; slot < branch.length; slot++) {
    const now = branch[slot]
    if (now === old[slot]) continue
    if (shift > 0)
      found = collected(now as TrieNode, (old[slot] as TrieNode | undefined) ?? [], shift - BITS, found)
    else found = withOneMore(found, now as Execution)
  }
  return found
}
