/**
 * Writes protobuf's wire format into one growing buffer that is used again for the next frame, so that an item of
 * twenty fields allocates nothing. Fields with their default value are left out, as proto3 has it.
 *
 * The length of a nested message stands before it and is known only after it. Room for it is left by a guess, and the
 * message is moved by a byte or two where the guess was wrong: cheaper than measuring every item first.
 */
import { EscrowError } from '../core/errors.ts'
import { checkInt64, checkUint32 } from './scalars.ts'

/** What the buffer starts with and shrinks back to: idle sessions are many, and hold no more than this each. */
const CAPACITY = 16 << 10
const TWO_TO_28 = 2 ** 28

/** Tags are passed whole (`field << 3 | wire type`) and take one byte: no field of the session's messages is above 15. */
export class ProtoWriter {
  #bytes: Buffer = Buffer.allocUnsafeSlow(CAPACITY)
  #at = 0

  /** No more than this is ever held; what needs more is `tooLarge`. */
  bytesMax: number

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
  }

  get length(): number {
    return this.#at
  }

  /** Forgets what stands after `length`. */
  truncate(length: number): void {
    this.#at = length
  }

  /** Forgets what stands from `start` to `end`, and moves what follows. */
  remove(start: number, end: number): void {
    this.#bytes.copyWithin(start, end, this.#at)
    this.#at -= end - start
  }

  /** A copy of the bytes before `end`, for keeping. */
  copy(end: number): Buffer {
    const copy = Buffer.allocUnsafeSlow(end)
    this.#bytes.copy(copy, 0, 0, end)
    return copy
  }

  /** Forgets everything, and gives back memory that the last use came nowhere near to needing. */
  reset(): void {
    if (this.#bytes.length > CAPACITY && this.#at < this.#bytes.length >> 2) {
      this.#bytes = Buffer.allocUnsafeSlow(Math.max(CAPACITY, this.#bytes.length >> 1))
    }
    this.#at = 0
  }

  /** A uint32, an enum or a bool. Throws `invalidArgument` for what is no uint32. */
  uint32(tag: number, value: number): void {
    if (value === 0) return
    this.#varintField(tag, checkUint32('a 32-bit number', value))
  }

  bool(tag: number, value: boolean | undefined): void {
    if (value === true) this.#varintField(tag, 1)
  }

  /** An int64 or uint64. Throws `invalidArgument` for what is no safe integer. */
  int64(tag: number, value: number): void {
    if (value === 0) return
    if (checkInt64('a 64-bit number', value) > 0) return this.#varintField(tag, value)
    this.#negative(tag, value)
  }

  /** Text; a lone surrogate becomes U+FFFD. */
  text(tag: number, value: string | undefined): void {
    if (value === undefined || value === '') return
    const units = value.length
    if (units > 127) return this.#longText(tag, value)
    this.#ensure(units + 2)
    const bytes = this.#bytes
    const start = this.#at
    bytes[start] = tag
    bytes[start + 1] = units
    const at = start + 2
    for (let i = 0; i < units; i++) {
      const unit = value.charCodeAt(i)
      if (unit > 127) return this.#longText(tag, value)
      bytes[at + i] = unit
    }
    this.#at = at + units
  }

  bytes(tag: number, value: Uint8Array): void {
    if (value.length > 0) this.message(tag, value)
  }

  /**
   * A nested message that is encoded already; unlike bytes it is there when it is empty, too. The one method that takes
   * fields above 15, whose tags are two bytes long.
   */
  message(tag: number, value: Uint8Array): void {
    this.#ensure(value.length + 7)
    this.#at = putVarint(this.#bytes, this.#at, tag)
    this.#at = putVarint(this.#bytes, this.#at, value.length)
    this.#bytes.set(value, this.#at)
    this.#at += value.length
  }

  /** A field and a varint that is known to be one. */
  #varintField(tag: number, value: number): void {
    this.#ensure(11)
    this.#bytes[this.#at++] = tag
    this.#at = putVarint(this.#bytes, this.#at, value)
  }

  /** Begins a nested message; `guess` is about how long it will be. To be passed on to `close`. */
  open(tag: number, guess: number): number {
    this.#ensure(6)
    this.#bytes[this.#at] = tag
    this.#at += 1 + varintLength(guess)
    return this.#at
  }

  /** Ends the nested message that began at `start`, with the guess that was made for it. */
  close(start: number, guess: number): void {
    const length = this.#at - start
    const room = varintLength(guess)
    const needed = varintLength(length)
    if (needed !== room) {
      this.#ensure(4)
      this.#bytes.copyWithin(start + needed - room, start, this.#at)
      this.#at += needed - room
    }
    putVarint(this.#bytes, start - room, length)
  }

  #longText(tag: number, value: string): void {
    // The length is guessed as that of ASCII text; the text is written again where it took more bytes than that.
    const units = value.length
    const isRoomy = this.#at + units * 3 + 6 <= this.#bytes.length
    if (!isRoomy) this.#ensure(Buffer.byteLength(value) + 6)
    this.#bytes[this.#at++] = tag
    const start = this.#at
    const at = putVarint(this.#bytes, start, units)
    const length = this.#bytes.write(value, at, 'utf8')
    if (length === units) {
      this.#at = at + length
      return
    }
    const moved = putVarint(this.#bytes, start, length)
    if (moved !== at) this.#bytes.write(value, moved, 'utf8')
    this.#at = moved + length
  }

  /** Two's complement in 64 bits, which is always ten bytes long. */
  #negative(tag: number, value: number): void {
    this.#ensure(11)
    this.#bytes[this.#at++] = tag
    let rest = BigInt.asUintN(64, BigInt(value))
    for (let i = 0; i < 9; i++) {
      this.#bytes[this.#at++] = Number(rest & 0x7fn) | 0x80
      rest >>= 7n
    }
    this.#bytes[this.#at++] = Number(rest)
  }

  #ensure(count: number): void {
    if (this.#at + count > this.#bytes.length) this.#grow(count)
  }

  #grow(count: number): void {
    const needed = this.#at + count
    if (needed > this.bytesMax) {
      throw new EscrowError('tooLarge', `an item takes more than ${this.bytesMax} bytes`)
    }
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#bytes.length * 2, needed))
    this.#bytes.copy(grown, 0, 0, this.#at)
    this.#bytes = grown
  }
}

function varintLength(value: number): number {
  if (value < 0x80) return 1
  if (value < 0x4000) return 2
  if (value < 0x200000) return 3
  return value < TWO_TO_28 ? 4 : 5
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
