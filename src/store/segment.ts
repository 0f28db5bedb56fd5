/**
 * The layout of a segment: what one append makes durable.
 *
 * | bytes | field                                                                          |
 * |-------|--------------------------------------------------------------------------------|
 * | 4     | magic `EscS`                                                                   |
 * | 1     | format                                                                         |
 * | 1 + n | key id: names the key that the records are encrypted under; empty for none     |
 * | 16    | nonce of the writer: whose segment stands there, when an append's end is unknown |
 * | 8     | epoch (as a double, like the next three)                                       |
 * | 8     | sequence                                                                       |
 * | 8     | wall clock, ms                                                                 |
 * | 8     | log time, ms                                                                   |
 * | 4     | how many records                                                               |
 * | …     | the records, one after the other: see `record.ts`                              |
 * | 4     | CRC-32 of everything before                                                    |
 */
import { crc32 } from 'node:zlib'
import { EscrowError, InvariantViolation } from '../core/errors.ts'
import type { TransactionImage } from '../core/transaction.ts'
import { ByteReader, ByteWriter, corrupt } from './binary.ts'
import type { LogClock, Segment } from './log.ts'
import {
  type DecodedTransactionRecord,
  decodeTransactionRecord,
  encodeTransactionRecord,
} from './transaction-record.ts'

/** The bytes of the largest segment. */
export const SEGMENT_BYTES_MAX = 4 << 20
/** The bytes of a writer's nonce. */
export const NONCE_BYTES = 16

const MAGIC = 0x45736353
const FORMAT = 1
const CRC_BYTES = 4
const HEADER_BYTES = 4 + 1 + 1 + NONCE_BYTES + 8 * 4 + 4
const CAPACITY_AT_FIRST = 64 << 10

/** What a segment says of itself before its records. */
export interface SegmentHeader {
  readonly nonce: Uint8Array
  readonly epoch: number
  readonly sequence: number
  readonly clock: LogClock
  readonly records: number
}

/** What tells a segment from any other of the same sequence. */
export interface SegmentIdentity {
  readonly sequence: number
  readonly epoch: number
  readonly nonce: Uint8Array
  readonly checksum: number
}

/** What a builder needs to close a segment. */
export interface SegmentSeal {
  readonly nonce: Uint8Array
  readonly epoch: number
  readonly sequence: number
  readonly clock: LogClock
}

/** Collects records until they leave as one segment; then collects the next one's in the same buffer. */
export class SegmentBuilder {
  readonly #writer = new ByteWriter(CAPACITY_AT_FIRST)
  #records = 0

  constructor() {
    this.#writer.skip(HEADER_BYTES)
  }

  /** How many records it holds. */
  get records(): number {
    return this.#records
  }

  /** The bytes that the segment would have now. */
  get bytes(): number {
    return this.#writer.length + CRC_BYTES
  }

  /**
   * Adds the record that turns `previous` into `next`. False: it is full and holds what it held; finish it, then add
   * again. Throws `tooLarge` for a record that no segment has room for.
   */
  add(previous: TransactionImage | undefined, next: TransactionImage): boolean {
    const before = this.#writer.length
    encodeTransactionRecord(this.#writer, previous, next)
    if (this.bytes <= SEGMENT_BYTES_MAX) {
      this.#records += 1
      return true
    }
    const actual = this.#writer.length - before
    this.#writer.truncate(before)
    if (this.#records > 0) return false
    throw new EscrowError(
      'tooLarge',
      `a record of ${actual} bytes has no room in a segment of ${SEGMENT_BYTES_MAX}`,
      {
        details: { limit: 'SEGMENT_BYTES_MAX', max: String(SEGMENT_BYTES_MAX), actual: String(actual) },
      },
    )
  }

  /** Closes the segment and starts the next one. The bytes are the caller's to keep, for as long as they may be appended again. */
  finish(seal: SegmentSeal): Segment {
    if (seal.nonce.length !== NONCE_BYTES)
      throw new InvariantViolation(`a nonce of ${seal.nonce.length} bytes`)
    const writer = this.#writer
    const end = writer.length
    writer.truncate()
    writer.u32(MAGIC)
    writer.byte(FORMAT)
    writer.byte(0)
    writer.raw(seal.nonce)
    writer.f64(seal.epoch)
    writer.f64(seal.sequence)
    writer.f64(seal.clock.wallMs)
    writer.f64(seal.clock.logMs)
    writer.u32(this.#records)
    writer.truncate(end)
    writer.u32(crc32(writer.written()))
    const bytes = writer.copy()
    this.#records = 0
    writer.truncate(HEADER_BYTES)
    return { sequence: seal.sequence, bytes }
  }
}

/** A segment that was read: what it says of itself, and its records one by one. */
export interface ReadSegment {
  readonly header: SegmentHeader
  /** Decodes as it goes. Throws `storeCorrupt`. */
  readonly records: () => Generator<DecodedTransactionRecord, void, undefined>
}

/** Reads a segment after checking its checksum; `where` names it in errors. Throws `storeCorrupt`. */
export function readSegment(bytes: Uint8Array, where = 'a segment'): ReadSegment {
  checkChecksum(bytes, where)
  const reader = new ByteReader(bytes, where, 0, bytes.length - CRC_BYTES)
  const header = takeHeader(reader)
  const start = reader.position
  function* records(): Generator<DecodedTransactionRecord, void, undefined> {
    const inRecords = new ByteReader(bytes, `segment ${header.sequence}`, start, bytes.length - CRC_BYTES)
    for (let left = header.records; left > 0; left--) yield decodeTransactionRecord(inRecords)
    if (inRecords.remaining > 0) throw inRecords.corrupt(`${inRecords.remaining} bytes after the last record`)
  }
  return { header, records }
}

/** What identifies a segment, read without checking the checksum against the rest. Throws `storeCorrupt`. */
export function segmentIdentity(bytes: Uint8Array, where = 'a segment'): SegmentIdentity {
  if (bytes.length < HEADER_BYTES + CRC_BYTES) throw corrupt(`${where}: only ${bytes.length} bytes long`)
  const { sequence, epoch, nonce } = takeHeader(new ByteReader(bytes, where))
  return { sequence, epoch, nonce, checksum: storedChecksum(bytes) }
}

/** Whether these are the same segment: what an append whose end is unknown asks of the one that it finds. */
export function isSameSegment(one: SegmentIdentity, other: SegmentIdentity): boolean {
  const isSame =
    one.sequence === other.sequence && one.epoch === other.epoch && one.checksum === other.checksum
  return isSame && Buffer.compare(one.nonce, other.nonce) === 0
}

/** Checks a segment's checksum. Throws `storeCorrupt`. */
export function checkChecksum(bytes: Uint8Array, where: string): void {
  if (bytes.length < HEADER_BYTES + CRC_BYTES) throw corrupt(`${where}: only ${bytes.length} bytes long`)
  const actual = crc32(bytes.subarray(0, bytes.length - CRC_BYTES))
  if (actual !== storedChecksum(bytes)) throw corrupt(`${where}: its checksum is wrong`)
}

function takeHeader(reader: ByteReader): SegmentHeader {
  if (reader.u32() !== MAGIC) throw reader.corrupt('this is no segment')
  const format = reader.byte()
  if (format !== FORMAT) throw reader.corrupt(`format ${format} is not known`)
  const keyId = reader.text()
  if (keyId !== '')
    throw reader.corrupt(`it is encrypted under the key ${JSON.stringify(keyId.slice(0, 100))}`)
  return {
    nonce: reader.raw(NONCE_BYTES),
    epoch: reader.f64(),
    sequence: reader.f64(),
    clock: { wallMs: reader.f64(), logMs: reader.f64() },
    records: reader.u32(),
  }
}

function storedChecksum(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(bytes.length - CRC_BYTES)
}
