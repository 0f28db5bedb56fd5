/**
 * Bytes, written and read in order. A writer grows one buffer and a reader walks one, so a record of twenty fields
 * allocates nothing but what it ends as. Lengths and small enumerations are LEB128 varints; a number is a varint of its
 * double if it is a whole one, else the marker 1 and eight bytes; text is UTF-8 after its length in bytes.
 */
import { EscrowError, InvariantViolation } from '../core/errors.ts'

/** Text at most this long is copied by a loop: below it a call into native code costs more than the copy. */
const SHORT_TEXT = 24
/** Doubling a number must stay exact. */
const WHOLE_NUMBER_MAX = 2 ** 52 - 1
const TWO_TO_28 = 2 ** 28

/** The error of bytes that don't hold together; `what` names them for whoever restores the store. */
export function corrupt(what: string): EscrowError {
  return new EscrowError(
    'storeCorrupt',
    `${what}. Stop, keep a copy of the store's files for study, and restore them from a backup.`,
  )
}

/** The place of a word among those that there are, which `choice` reads back. */
export function indexOf(choices: readonly string[], value: string): number {
  const index = choices.indexOf(value)
  if (index < 0) throw new InvariantViolation(`${JSON.stringify(value)} is none of ${choices.join(', ')}`)
  return index
}

/** Writes into one growing buffer. */
export class ByteWriter {
  #bytes: Buffer
  #view: DataView
  #length = 0

  /** `capacity`: bytes to start with; it doubles as needed. */
  constructor(capacity = 1024) {
    this.#bytes = Buffer.allocUnsafeSlow(Math.max(capacity, 64))
    this.#view = viewOf(this.#bytes)
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#length
  }

  /** Forgets what stands after `length`, to start anew or to take a record back. */
  truncate(length = 0): void {
    this.#length = length
  }

  /** What was written, in place: valid until the next write. */
  written(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  /** The buffer behind it: what stands in it up to `length` stays there as long as nothing is taken back. */
  get bytes(): Uint8Array {
    return this.#bytes
  }

  /** A copy of what was written from `start`, for keeping. */
  copy(start = 0): Uint8Array {
    return Buffer.from(this.#bytes.subarray(start, this.#length))
  }

  /** Leaves room for `count` bytes and tells where it is. */
  skip(count: number): number {
    this.#ensure(count)
    const at = this.#length
    this.#length += count
    return at
  }

  byte(value: number): void {
    this.#ensure(1)
    this.#bytes[this.#length++] = value
  }

  /** A whole number from 0 to 2^53 - 1. */
  varint(value: number): void {
    this.#ensure(8)
    this.#length = putVarint(this.#bytes, this.#length, value)
  }

  /** Any number. */
  number(value: number): void {
    this.#ensure(9)
    if (value >= 0 && value <= WHOLE_NUMBER_MAX && Math.floor(value) === value) {
      this.#length = putVarint(this.#bytes, this.#length, value * 2)
    } else {
      this.#bytes[this.#length] = 1
      this.#view.setFloat64(this.#length + 1, value)
      this.#length += 9
    }
  }

  f64(value: number): void {
    this.#ensure(8)
    this.#view.setFloat64(this.#length, value)
    this.#length += 8
  }

  u32(value: number): void {
    this.#ensure(4)
    this.#view.setUint32(this.#length, value)
    this.#length += 4
  }

  /** Overwrites four bytes that `skip` left. */
  u32At(at: number, value: number): void {
    this.#view.setUint32(at, value)
  }

  /** Bytes without their length. */
  raw(value: Uint8Array): void {
    this.#ensure(value.length)
    this.#bytes.set(value, this.#length)
    this.#length += value.length
  }

  /** Bytes after their length. */
  blob(value: Uint8Array): void {
    this.varint(value.length)
    this.raw(value)
  }

  /** Text after its length in bytes. Lone surrogates become U+FFFD. */
  text(value: string): void {
    const units = value.length
    this.#ensure(units * 3 + 8)
    if (units <= SHORT_TEXT) {
      const bytes = this.#bytes
      const at = this.#length + 1
      let i = 0
      for (; i < units; i++) {
        const unit = value.charCodeAt(i)
        if (unit > 127) break
        bytes[at + i] = unit
      }
      if (i === units) {
        bytes[at - 1] = units
        this.#length = at + units
        return
      }
    }
    this.#longText(value, units)
  }

  #longText(value: string, units: number): void {
    // The length is guessed as that of ASCII text; the text moves where it took more bytes than its length allowed for.
    const start = this.#length
    const at = putVarint(this.#bytes, start, units)
    const bytes = this.#bytes.write(value, at, 'utf8')
    if (bytes === units) {
      this.#length = at + bytes
      return
    }
    const moved = putVarint(this.#bytes, start, bytes)
    if (moved !== at) this.#bytes.write(value, moved, 'utf8')
    this.#length = moved + bytes
  }

  #ensure(count: number): void {
    if (this.#length + count > this.#bytes.length) this.#grow(count)
  }

  #grow(count: number): void {
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#bytes.length * 2, this.#length + count))
    grown.set(this.#bytes.subarray(0, this.#length))
    this.#bytes = grown
    this.#view = viewOf(grown)
  }
}

/** Reads what a `ByteWriter` wrote. Every method throws `storeCorrupt` rather than read past the end. */
export class ByteReader {
  readonly #bytes: Buffer
  readonly #view: DataView
  readonly #end: number
  readonly #what: string
  #at: number

  /** Reads `bytes` from `start` to `end`; `what` names them in errors. */
  constructor(bytes: Uint8Array, what: string, start = 0, end = bytes.length) {
    this.#bytes = Buffer.isBuffer(bytes)
      ? bytes
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#view = viewOf(bytes)
    this.#what = what
    this.#at = start
    this.#end = end
  }

  /** Where the next byte stands. */
  get position(): number {
    return this.#at
  }

  get remaining(): number {
    return this.#end - this.#at
  }

  /** The error for what these bytes say that can't be. */
  corrupt(problem: string): EscrowError {
    return corrupt(`${this.#what}: ${problem} at byte ${this.#at}`)
  }

  byte(): number {
    return this.#bytes[this.#take(1)] as number
  }

  /** The byte at a distance from here, if there is one. */
  peek(distance: number): number | undefined {
    return this.#at + distance < this.#end ? this.#bytes[this.#at + distance] : undefined
  }

  varint(): number {
    const first = this.byte()
    if (first < 0x80) return first
    let value = first & 0x7f
    for (let scale = 128; scale <= 2 ** 49; scale *= 128) {
      const byte = this.byte()
      value += (byte & 0x7f) * scale
      if (byte < 0x80) {
        if (value > Number.MAX_SAFE_INTEGER) break
        return value
      }
    }
    throw this.corrupt('a number is too large')
  }

  number(): number {
    const doubled = this.varint()
    if (doubled === 1) return this.f64()
    if (doubled % 2 !== 0) throw this.corrupt('a number is malformed')
    return doubled / 2
  }

  f64(): number {
    return this.#view.getFloat64(this.#take(8))
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4))
  }

  /** `count` bytes in place: valid as long as the bytes that are read. */
  raw(count: number): Uint8Array {
    const at = this.#take(count)
    return this.#bytes.subarray(at, at + count)
  }

  /** A copy, so that a small body doesn't keep the segment of megabytes that it came in. */
  blob(): Uint8Array {
    const length = this.varint()
    const at = this.#take(length)
    const copy = new Uint8Array(length)
    copy.set(this.#bytes.subarray(at, at + length))
    return copy
  }

  text(): string {
    const length = this.varint()
    if (length === 0) return ''
    const at = this.#take(length)
    return this.#bytes.toString('utf8', at, at + length)
  }

  /** A whole number below `bound`: the index of an enumeration. */
  choice(bound: number): number {
    const value = this.byte()
    if (value >= bound) throw this.corrupt(`${value} is no choice below ${bound}`)
    return value
  }

  /** How many items follow, each of which takes at least one byte: what a damaged count could make a loop run. */
  count(): number {
    const count = this.varint()
    if (count > this.remaining) throw this.corrupt(`${count} items in ${this.remaining} bytes`)
    return count
  }

  #take(count: number): number {
    const at = this.#at
    if (count > this.#end - at) throw this.corrupt(`${count} bytes wanted where ${this.#end - at} are left`)
    this.#at = at + count
    return at
  }
}

function putVarint(bytes: Uint8Array, start: number, value: number): number {
  let at = start
  let rest = value
  // Above 2^31 the bit operators would cut it.
  while (rest >= TWO_TO_28) {
    bytes[at++] = (rest % 128) | 0x80
    rest = Math.floor(rest / 128)
  }
  while (rest >= 0x80) {
    bytes[at++] = (rest & 0x7f) | 0x80
    rest >>>= 7
  }
  bytes[at++] = rest
  return at
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
