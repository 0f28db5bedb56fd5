/**
 * The layout of what the embedded store keeps. Numbers are big-endian, so that the order of keys is that of their bytes.
 *
 * | folder | table          | key                                 | value                                          |
 * |--------|----------------|-------------------------------------|------------------------------------------------|
 * | log    | meta           | `store`                             | format, store id, logs: JSON                   |
 * | log    | fences         | 1, log                              | epoch (and as the row's version)               |
 * | log    | fences         | 2, log                              | head (and as the row's version)                |
 * | log    | fences         | 3, log                              | checkpointed, wall clock, log time             |
 * | log    | segments       | log, sequence                       | a segment                                      |
 * | log    | directory      | name                                | an entry (its version is the row's)            |
 * | images | meta           | `store`                             | store id                                       |
 * | images | meta           | `indexing`                          | how far older rows are indexed; none: all are  |
 * | images | fences         | 1, log                              | epoch (and as the row's version)               |
 * | images | live           | transaction key                     | an image row                                   |
 * | images | due            | log, clock, time, transaction key   | nothing                                        |
 * | images | statuses       | status, transaction key             | nothing: live rows by status                   |
 * | images | terms          | 2, term, 0, status, transaction key | nothing: live rows by search attribute         |
 * | images | days           | day                                 | nothing                                        |
 * | images | finished-*day* | transaction key                     | an image row                                   |
 * | images | finished-*day* | 0, transaction key                  | nothing: the rolled-back ones                  |
 * | images | finished-*day* | 1, transaction key                  | nothing: the compensated ones                  |
 * | images | finished-*day* | 2, term, 0, status, transaction key | nothing: by search attribute                   |
 *
 * Every value but segments, which carry their own, begins with a CRC-32 of the rest. "Nothing" is one byte.
 *
 * An image row: CRC-32, layout, status, log, sequence, finishedAtMs, dueLogMs, dueWallMs (NaN for none), the image. In layout
 * 2, for a live one with search attributes, its terms stand before the image, each but the first after a 0, and before them
 * how many bytes they take: so its next change knows which places in the index to give up. A finished one never changes.
 */
import { crc32 } from 'node:zlib'
import type { TransactionKey } from '../../core/ids.ts'
import { type ByteWriter, corrupt } from '../binary.ts'
import type { DueClock, DueEntry, ImageStatus, StoredImage } from '../images.ts'
import { NO_TERMS, type Terms } from './terms.ts'

/** The value of a key that says everything. */
export const NOTHING = Buffer.from([1])

const STATUSES: readonly ImageStatus[] = [
  'prepared',
  'committed',
  'delivered',
  'rolledBack',
  'parked',
  'running',
  'completed',
  'compensating',
  'compensated',
]
/** What finished seldom, with the prefix of its index in the table of its day. */
export const RARE_ENDS: Partial<Record<ImageStatus, number>> = { rolledBack: 0, compensated: 1 }

const TERMS = 2
const LAYOUT = 1
const LAYOUT_WITH_TERMS = 2
const AT_LAYOUT = 4
const AT_STATUS = 5
const AT_LOG = 6
const AT_SEQUENCE = 10
const AT_FINISHED = 18
const AT_DUE_LOG = 26
const AT_DUE_WALL = 34
const AT_IMAGE = 42

/** What a stored row says beside its image. */
export interface RowFacts {
  readonly status: ImageStatus
  readonly log: number
  readonly sequence: number
  readonly dueLogMs: number | undefined
  readonly dueWallMs: number | undefined
  /** Those that it is indexed by, as far as it is a live one. */
  readonly terms: Terms
}

/** What is written as a row. */
export type WrittenRow = Omit<RowFacts, 'log' | 'terms'> & StoredImage

/** Writes a row; returns where it starts. */
export function putRow(writer: ByteWriter, log: number, row: WrittenRow, terms: Terms): number {
  const start = writer.skip(4)
  writer.byte(terms.length === 0 ? LAYOUT : LAYOUT_WITH_TERMS)
  writer.byte(STATUSES.indexOf(row.status))
  writer.u32(log)
  writer.f64(row.sequence)
  writer.f64(row.finishedAtMs)
  writer.f64(row.dueLogMs ?? Number.NaN)
  writer.f64(row.dueWallMs ?? Number.NaN)
  if (terms.length > 0) {
    const bytes = textKey(terms.join('\0'))
    writer.u32(bytes.length)
    writer.raw(bytes)
  }
  writer.raw(row.bytes)
  writer.u32At(start, crc32(writer.bytes.subarray(start + 4, writer.length)))
  return start
}

/** What a row says. Throws `storeCorrupt`, naming the key. */
export function rowFacts(key: TransactionKey, row: Uint8Array): RowFacts {
  const view = checked(row, `the image of transaction ${key}`, AT_IMAGE)
  const status = STATUSES[view.getUint8(AT_STATUS)]
  const layout = view.getUint8(AT_LAYOUT)
  if (status === undefined || (layout !== LAYOUT && layout !== LAYOUT_WITH_TERMS))
    throw corrupt(`the image of transaction ${key}: its layout is not known`)
  return {
    status,
    log: view.getUint32(AT_LOG),
    sequence: view.getFloat64(AT_SEQUENCE),
    dueLogMs: timeOf(view.getFloat64(AT_DUE_LOG)),
    dueWallMs: timeOf(view.getFloat64(AT_DUE_WALL)),
    terms: layout === LAYOUT ? NO_TERMS : rowTerms(row, view),
  }
}

/** A row as the port gives it. Throws `storeCorrupt`, naming the key. */
export function storedImage(key: TransactionKey, row: Uint8Array): StoredImage {
  const view = checked(row, `the image of transaction ${key}`, AT_IMAGE)
  return {
    sequence: view.getFloat64(AT_SEQUENCE),
    finishedAtMs: view.getFloat64(AT_FINISHED),
    bytes: row.subarray(imageStart(view)),
  }
}

function rowTerms(row: Uint8Array, view: DataView): Terms {
  return keyText(row.subarray(AT_IMAGE + 4, imageStart(view))).split('\0')
}

function imageStart(view: DataView): number {
  return view.getUint8(AT_LAYOUT) === LAYOUT_WITH_TERMS ? AT_IMAGE + 4 + view.getUint32(AT_IMAGE) : AT_IMAGE
}

/** Whether only half messages have this status. */
export function isOfMessages(status: ImageStatus): boolean {
  return status === 'prepared' || status === 'committed' || status === 'delivered' || status === 'rolledBack'
}

/** Whether a row has this status: read without its checksum, to choose what is worth reading. */
export function hasStatus(row: Uint8Array, status: ImageStatus): boolean {
  return row[AT_STATUS] === STATUSES.indexOf(status)
}

/** Numbers as a value. */
export function numbersValue(...numbers: readonly number[]): Uint8Array {
  const value = Buffer.alloc(4 + numbers.length * 8)
  for (const [i, number] of numbers.entries()) value.writeDoubleBE(number, 4 + i * 8)
  value.writeUInt32BE(crc32(value.subarray(4)))
  return value
}

/** The numbers of a value; `what` names it in errors. Throws `storeCorrupt`. */
export function valueNumbers(value: Uint8Array | undefined, count: number, what: string): number[] {
  if (value === undefined) throw corrupt(`${what}: missing`)
  const view = checked(value, what, 4 + count * 8)
  return Array.from({ length: count }, (_, i) => view.getFloat64(4 + i * 8))
}

/** Bytes as a value. */
export function bytesValue(bytes: Uint8Array): Uint8Array {
  const value = Buffer.alloc(4 + bytes.length)
  value.set(bytes, 4)
  value.writeUInt32BE(crc32(bytes))
  return value
}

/** The bytes of a value; `what` names it in errors. Throws `storeCorrupt`. */
export function valueBytes(value: Uint8Array, what: string): Uint8Array {
  checked(value, what, 4)
  return Uint8Array.from(value.subarray(4))
}

/** A key of text. */
export function textKey(text: string): Uint8Array {
  return Buffer.from(text, 'utf8')
}

/** The text of a key from `start`. */
export function keyText(key: Uint8Array, start = 0): TransactionKey {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('utf8', start) as TransactionKey
}

/** A key of one byte and text. */
export function prefixedKey(prefix: number, text: string): Uint8Array {
  const key = Buffer.allocUnsafe(1 + Buffer.byteLength(text))
  key[0] = prefix
  key.write(text, 1, 'utf8')
  return key
}

/** The place of a transaction with this status among those of a term; without its key, what stands before all of them. */
export function termKey(term: string, status: ImageStatus, key: string): Uint8Array {
  const bytes = Buffer.allocUnsafe(3 + Buffer.byteLength(term) + Buffer.byteLength(key))
  bytes[0] = TERMS
  const end = 1 + bytes.write(term, 1, 'utf8')
  // What no term has ends it, so that none begins with another.
  bytes[end] = 0
  bytes[end + 1] = statusPrefix(status)
  bytes.write(key, end + 2, 'utf8')
  return bytes
}

/** The prefix of a status in the table of statuses. */
export function statusPrefix(status: ImageStatus): number {
  return STATUSES.indexOf(status)
}

/** The key of a number of a log's fence. */
export function fenceKey(which: 'epoch' | 'head' | 'checkpointed', log: number): Uint8Array {
  const key = Buffer.alloc(5)
  key[0] = { epoch: 1, head: 2, checkpointed: 3 }[which]
  key.writeUInt32BE(log, 1)
  return key
}

/** The key of a segment. */
export function segmentKey(log: number, sequence: number): Uint8Array {
  const key = Buffer.allocUnsafe(12)
  key.writeUInt32BE(log)
  key.writeUInt32BE(Math.floor(sequence / 2 ** 32), 4)
  key.writeUInt32BE(sequence % 2 ** 32, 8)
  return key
}

/** The sequence in a segment's key. */
export function segmentSequence(key: Uint8Array): number {
  const view = new DataView(key.buffer, key.byteOffset, key.byteLength)
  return view.getUint32(4) * 2 ** 32 + view.getUint32(8)
}

/** The key of a due entry; without a transaction's key, what stands before all of that time. */
export function dueKey(log: number, clock: DueClock, dueMs: number, key: string): Uint8Array {
  const bytes = Buffer.allocUnsafe(13 + Buffer.byteLength(key))
  bytes.writeUInt32BE(log)
  bytes[4] = clock === 'log' ? 0 : 1
  // Doubles that aren't negative order as their bytes do; what was due before all time is due at its start.
  bytes.writeDoubleBE(Math.max(0, dueMs), 5)
  bytes.write(key, 13, 'utf8')
  return bytes
}

/** The entry of a key of the due index. */
export function dueEntry(key: Uint8Array): DueEntry {
  return {
    key: keyText(key, 13),
    dueMs: new DataView(key.buffer, key.byteOffset, key.byteLength).getFloat64(5),
  }
}

/** The first key after this one. */
export function successor(key: Uint8Array): Uint8Array {
  return Buffer.concat([key, Buffer.from([0])])
}

function timeOf(value: number): number | undefined {
  return Number.isNaN(value) ? undefined : value
}

function checked(value: Uint8Array, what: string, bytesMin: number): DataView {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  if (value.length < bytesMin || view.getUint32(0) !== crc32(value.subarray(4)))
    throw corrupt(`${what}: its checksum is wrong`)
  return view
}
