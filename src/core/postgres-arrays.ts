/** Arrays as PostgreSQL takes them in binary: twice as fast as text, and a Buffer is what `pg` sends as it stands. */

/** The types of elements, by their OIDs in every PostgreSQL. */
export const ELEMENT = { bool: 16, bytea: 17, int8: 20, int4: 23, text: 25, float8: 701, uuid: 2950 } as const

const HEADER_BYTES = 20
const AT_COUNT = 12
const NULL = -1

/** Builds one array of one dimension, element after element. */
export class ArrayBuilder {
  #bytes: Buffer
  #length = HEADER_BYTES
  #count = 0
  #hasNull = false
  readonly #element: number

  /** `capacity`: bytes to start with; it doubles as needed. */
  constructor(element: number, capacity = 1024) {
    this.#element = element
    this.#bytes = Buffer.allocUnsafe(Math.max(HEADER_BYTES, capacity))
  }

  null(): void {
    this.#hasNull = true
    this.#begin(0, NULL)
  }

  bool(value: boolean): void {
    const at = this.#begin(1, 1)
    this.#bytes[at] = value ? 1 : 0
  }

  int4(value: number): void {
    const at = this.#begin(4, 4)
    this.#bytes.writeInt32BE(value, at)
  }

  /** A whole number from 0 to 2^53 - 1. */
  int8(value: number): void {
    const at = this.#begin(8, 8)
    this.#bytes.writeUInt32BE(Math.floor(value / 2 ** 32), at)
    this.#bytes.writeUInt32BE(value % 2 ** 32, at + 4)
  }

  float8(value: number): void {
    const at = this.#begin(8, 8)
    this.#bytes.writeDoubleBE(value, at)
  }

  bytea(value: Uint8Array): void {
    const at = this.#begin(value.length, value.length)
    this.#bytes.set(value, at)
  }

  /** 32 hexadecimal digits. */
  uuid(hex: string): void {
    const at = this.#begin(16, 16)
    this.#bytes.write(hex, at, 'hex')
  }

  /** Text without U+0000, which PostgreSQL refuses. */
  text(value: string): void {
    const at = this.#begin(value.length * 3, 0)
    const bytes = this.#bytes.write(value, at, 'utf8')
    this.#bytes.writeInt32BE(bytes, at - 4)
    this.#length = at + bytes
  }

  /** Bytes that it holds on to. */
  get capacity(): number {
    return this.#bytes.length
  }

  /** Begins anew, in the same place: what `finish` returned is no longer valid. */
  clear(): void {
    this.#length = HEADER_BYTES
    this.#count = 0
    this.#hasNull = false
  }

  /** The array, in place: valid until the next element. */
  finish(): Buffer {
    const bytes = this.#bytes
    bytes.writeInt32BE(this.#count === 0 ? 0 : 1, 0)
    bytes.writeInt32BE(this.#hasNull ? 1 : 0, 4)
    bytes.writeInt32BE(this.#element, 8)
    bytes.writeInt32BE(this.#count, AT_COUNT)
    bytes.writeInt32BE(1, AT_COUNT + 4)
    return bytes.subarray(0, this.#count === 0 ? AT_COUNT : this.#length)
  }

  /** Leaves room for an element and writes its length; returns where it stands. May replace the buffer: look at that afterwards. */
  #begin(room: number, length: number): number {
    const at = this.#length + 4
    if (at + room > this.#bytes.length) this.#grow(at + room)
    this.#bytes.writeInt32BE(length, at - 4)
    this.#length = at + Math.max(0, length)
    this.#count += 1
    return at
  }

  #grow(length: number): void {
    const grown = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, length))
    this.#bytes.copy(grown, 0, 0, this.#length)
    this.#bytes = grown
  }
}

/** An array of texts. */
export function textArray(values: readonly string[]): Buffer {
  const array = new ArrayBuilder(ELEMENT.text, 64 * values.length)
  for (const value of values) array.text(value)
  return array.finish()
}
