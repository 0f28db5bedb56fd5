/**
 * Reads protobuf's wire format in place. Whatever the bytes are, a method returns or throws `malformed`: nothing is read
 * past the end of the message that it stands in, no loop runs further than the bytes reach, and nothing is allocated by
 * a length before that length was held against what is there.
 */
import { isUtf8 } from 'node:buffer'
import { EscrowError } from '../core/errors.ts'

/** A group may hold a group; deeper than this it is an attack on the stack. */
const GROUP_DEPTH_MAX = 16
/** A view keeps the whole frame alive: below this size that is cheap enough whatever the body is. */
const PINNED_BYTES_MAX = 64 << 10
/** In a larger frame a body is a view only if it is at least this share of the frame. */
const PINNED_SHARE = 16
/** Names come again from item to item, ids don't: text longer than this isn't remembered. */
const REMEMBERED_LENGTH_MAX = 128

/** The text that a field held last: names repeat, and comparing is cheaper than making a string. */
export interface LastText {
  text: string
}

/** The error of bytes that aren't what the protos describe. */
export const malformed = (problem: string): EscrowError =>
  new EscrowError('malformed', `malformed frame: ${problem}`)

/** Reads one frame; `enter` and `leave` narrow it to a nested message. */
export class ProtoReader {
  readonly #bytes: Buffer
  #at = 0
  #end: number
  #low = 0
  #high = 0
  #top = 0
  /** The first value of the item at hand that can be read, but not be carried in the API; see `int64`. */
  problem: EscrowError | undefined

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.isBuffer(bytes)
      ? bytes
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#end = bytes.length
  }

  /** Whether the message at hand goes on. */
  get more(): boolean {
    return this.#at < this.#end
  }

  /** The next tag: `field << 3 | wire type`. */
  tag(): number {
    const at = this.#at
    const first = this.#bytes[at] as number
    if (first < 0x80 && first > 7 && at < this.#end) {
      this.#at = at + 1
      return first
    }
    const tag = this.uint32()
    if (tag < 8) throw malformed(`tag ${tag} at byte ${at}`)
    return tag
  }

  /** A uint32 or an enum; of more bits the lower 32 count, as protobuf has it. */
  uint32(): number {
    const at = this.#at
    const first = this.#bytes[at] as number
    if (first < 0x80 && at < this.#end) {
      this.#at = at + 1
      return first
    }
    const second = this.#bytes[at + 1] as number
    if (second < 0x80 && at + 1 < this.#end) {
      this.#at = at + 2
      return (first & 0x7f) | (second << 7)
    }
    this.#varint()
    return (this.#low + (this.#high % 16) * 2 ** 28) >>> 0
  }

  bool(): boolean {
    this.#varint()
    return this.#low !== 0 || this.#high !== 0 || this.#top !== 0
  }

  /** An int64. One beyond the safe integers is noted as the item's `problem`, and read as 0. */
  int64(field: string): number {
    const at = this.#at
    const first = this.#bytes[at] as number
    if (first < 0x80 && at < this.#end) {
      this.#at = at + 1
      return first
    }
    this.#varint()
    const [low, high, top] = [this.#low, this.#high, this.#top]
    // The products are exact; only a sum beyond the safe integers is not, and is refused.
    const value =
      top === 0 ? high * 2 ** 28 + low : top === 0xff ? (high - 2 ** 28) * 2 ** 28 + low : Number.NaN
    if (Number.isSafeInteger(value)) return value
    this.note(
      new EscrowError('invalidArgument', `${field} is out of range, allowed is ±${Number.MAX_SAFE_INTEGER}`),
    )
    return 0
  }

  /** Notes the first thing that is wrong with the item at hand though its bytes are well formed. */
  note(error: unknown): void {
    this.problem ??= EscrowError.from(error)
  }

  /** A uint64 that counts: an item that names itself by a number beyond the safe integers can't be answered. */
  counter(): number {
    const at = this.#at
    const first = this.#bytes[at] as number
    if (first < 0x80 && at < this.#end) {
      this.#at = at + 1
      return first
    }
    this.#varint()
    const value = this.#high * 2 ** 28 + this.#low
    if (this.#top !== 0 || !Number.isSafeInteger(value)) throw malformed('an id is above 2^53 - 1')
    return value
  }

  /** Text; not the same as the last one of its field, as a rule. */
  text(): string {
    const length = this.#length()
    if (length === 0) return ''
    const at = this.#at
    this.#at = at + length
    return this.#textAt(at, length)
  }

  /** Text that often is the same as the last one of its field. */
  name(last: LastText): string {
    const length = this.#length()
    if (length === 0) return ''
    const at = this.#at
    this.#at = at + length
    const { text } = last
    if (text.length === length) {
      const bytes = this.#bytes
      let i = 0
      while (i < length && text.charCodeAt(i) === bytes[at + i]) i++
      if (i === length) return text
    }
    const read = this.#textAt(at, length)
    // Only ASCII, where a character is a byte: otherwise one that is no UTF-8 could pass for it.
    if (read.length === length && length <= REMEMBERED_LENGTH_MAX) last.text = read
    return read
  }

  /**
   * A body: a view on the frame, or a copy where the view would keep much more memory alive than it shows. Bodies of
   * one frame are mostly forgotten together, within about a second, once their transactions are checkpointed; what
   * outlives the others holds 64 KiB at most, or 16 times its own size. See `detach` for keeping it longer.
   */
  body(): Uint8Array {
    const length = this.#length()
    const at = this.#at
    this.#at = at + length
    const whole = this.#bytes.length
    const view = this.#bytes.subarray(at, at + length)
    return whole <= PINNED_BYTES_MAX || length * PINNED_SHARE >= whole ? view : Buffer.from(view)
  }

  /** The bytes of a nested message, in place. */
  raw(): Uint8Array {
    const length = this.#length()
    const at = this.#at
    this.#at = at + length
    return this.#bytes.subarray(at, at + length)
  }

  /** Begins a nested message; what it returns is to be passed on to `leave`. */
  enter(): number {
    const length = this.#length()
    const outer = this.#end
    this.#end = this.#at + length
    return outer
  }

  /** Ends a nested message that was read to its end. */
  leave(outer: number): void {
    this.#end = outer
  }

  /** Skips a field that isn't known. One of the message's own fields (1 to `fields`) comes here by a wrong wire type. */
  skip(tag: number, fields: number): void {
    if (tag >>> 3 <= fields) throw malformed(`field ${tag >>> 3} has wire type ${tag & 7}`)
    this.#skip(tag, 0)
  }

  #skip(tag: number, depth: number): void {
    switch (tag & 7) {
      case 0:
        this.#varint()
        return
      case 1:
        return this.#advance(8)
      case 2:
        return this.#advance(this.#length())
      case 3:
        return this.#skipGroup(tag, depth + 1)
      case 5:
        return this.#advance(4)
      default:
        throw malformed(`wire type ${tag & 7} at byte ${this.#at}`)
    }
  }

  #skipGroup(start: number, depth: number): void {
    if (depth > GROUP_DEPTH_MAX) throw malformed('groups are nested too deep')
    const end = ((start & ~7) | 4) >>> 0
    for (;;) {
      const tag = this.tag()
      if (tag === end) return
      this.#skip(tag, depth)
    }
  }

  #advance(count: number): void {
    if (count > this.#end - this.#at) throw this.#truncated(count)
    this.#at += count
  }

  /** A length, held against what is left. */
  #length(): number {
    const length = this.uint32()
    if (length > this.#end - this.#at) throw this.#truncated(length)
    return length
  }

  #truncated(count: number): EscrowError {
    return malformed(`${count} bytes are announced where ${this.#end - this.#at} are left`)
  }

  /** Reads a varint into its lower 28, next 28 and upper 8 bits: a number holds 53, and a bigint is slow. */
  #varint(): void {
    const bytes = this.#bytes
    let [low, high, top] = [0, 0, 0]
    for (let i = 0; i < 10; i++) {
      if (this.#at >= this.#end) throw malformed(`a number is cut off at byte ${this.#at}`)
      const byte = bytes[this.#at++] as number
      const bits = (byte & 0x7f) << ((i % 4) * 7)
      if (i < 4) low |= bits
      else if (i < 8) high |= bits
      else top |= bits
      if (byte < 0x80) {
        if (top > 0xff) break
        this.#low = low
        this.#high = high
        this.#top = top
        return
      }
    }
    throw malformed(`a number is longer than 64 bits at byte ${this.#at}`)
  }

  #textAt(at: number, length: number): string {
    const bytes = this.#bytes
    const end = at + length
    let i = at
    while (i < end && (bytes[i] as number) < 0x80) i++
    if (i === end) return bytes.toString('latin1', at, end)
    if (!isUtf8(bytes.subarray(at, end))) throw malformed(`text at byte ${at} is not UTF-8`)
    return bytes.toString('utf8', at, end)
  }
}

/**
 * The bytes for keeping: a copy of a view that would keep more than twice its size alive, else the very same. For who
 * holds a body longer than its frame's other bodies live.
 */
export function detach(bytes: Uint8Array): Uint8Array {
  if (bytes.buffer.byteLength <= 2 * bytes.byteLength) return bytes
  // Not `Buffer.from`, whose copy may be a view itself, on the shared pool.
  return new Uint8Array(bytes)
}
