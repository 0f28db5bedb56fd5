/** Records and images of either kind of transaction: the third byte of each tells which. */
import { InvariantViolation } from '../core/errors.ts'
import { isSaga, type TransactionImage } from '../core/transaction.ts'
import { type ByteReader, type ByteWriter, corrupt } from './binary.ts'
import type { Attributes } from './images.ts'
import {
  applyRecord,
  type DecodedRecord,
  decodeImage,
  decodeRecord,
  encodeImage,
  encodeRecord,
} from './record.ts'
import {
  applySagaRecord,
  type DecodedSagaRecord,
  decodeSagaImage,
  decodeSagaRecord,
  encodeSagaImage,
  encodeSagaRecord,
  KIND_SAGA,
} from './saga-record.ts'

/** What a record says, of a transaction of either kind. */
export type DecodedTransactionRecord = DecodedRecord | DecodedSagaRecord

/** Format and an empty key id stand before the kind; with another key id neither decoder goes on. */
const AT_KIND = 2

const isKindSaga = (kindByte: number | undefined): boolean => (kindByte ?? 0) >> 1 === KIND_SAGA

/** Writes the record that turns `previous` into `next`. */
export function encodeTransactionRecord(
  writer: ByteWriter,
  previous: TransactionImage | undefined,
  next: TransactionImage,
): void {
  if (previous !== undefined && previous.head.kind !== next.head.kind)
    throw new InvariantViolation(`a ${previous.head.kind} became a ${next.head.kind}`)
  if (isSaga(next)) encodeSagaRecord(writer, previous as typeof next | undefined, next)
  else encodeRecord(writer, previous as typeof next | undefined, next)
}

/** Reads one record; the reader stands behind it afterwards. Throws `storeCorrupt`. */
export function decodeTransactionRecord(reader: ByteReader): DecodedTransactionRecord {
  return isKindSaga(reader.peek(AT_KIND)) ? decodeSagaRecord(reader) : decodeRecord(reader)
}

/** Whether a record is the next image whole, so that nothing before it matters. */
export function isWhole(record: DecodedTransactionRecord): boolean {
  return 'isDelta' in record ? !record.isDelta : record.head !== undefined
}

/** The image after a record. Throws `storeCorrupt` for a delta to an image that nobody has. */
export function applyTransactionRecord(
  image: TransactionImage | undefined,
  record: DecodedTransactionRecord,
): TransactionImage {
  if (image !== undefined && isSaga(image) !== 'isDelta' in record)
    throw corrupt(`transaction ${record.key}: a change of it is of another kind`)
  return 'isDelta' in record
    ? applySagaRecord(image as Parameters<typeof applySagaRecord>[0], record)
    : applyRecord(image as Parameters<typeof applyRecord>[0], record)
}

/** Writes an image as the bytes of a row. `bodies` false leaves out what nobody needs once it has finished. */
export function encodeTransactionImage(
  writer: ByteWriter,
  image: TransactionImage,
  options: { readonly bodies: boolean },
): void {
  if (isSaga(image)) encodeSagaImage(writer, image, options)
  else encodeImage(writer, image, options)
}

/** Reads the image of a row. Throws `storeCorrupt`. */
export function decodeTransactionImage(bytes: Uint8Array): TransactionImage {
  return isKindSaga(bytes[AT_KIND]) ? decodeSagaImage(bytes) : decodeImage(bytes)
}

/** What an image is found by; undefined where that is nothing. */
export function attributesOf(image: TransactionImage): Attributes | undefined {
  if (!isSaga(image)) return undefined
  const { businessKey, tags } = image.state
  if (businessKey !== '') return { businessKey, tags }
  for (const _ in tags) return { businessKey, tags }
  return undefined
}
