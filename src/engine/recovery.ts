import { EscrowError } from '../core/errors.ts'
import type { TransactionKey } from '../core/ids.ts'
import type { TransactionImage } from '../core/transaction.ts'
import type { LogClock, LogHandle } from '../store/log.ts'
import { readSegment } from '../store/segment.ts'
import type { Store } from '../store/store.ts'
import {
  applyTransactionRecord,
  type DecodedTransactionRecord,
  decodeTransactionImage,
  isWhole,
} from '../store/transaction-record.ts'
import { Entries } from './entries.ts'
import { Entry } from './entry.ts'
import { loadImages } from './loader.ts'

/** A log as it was left. */
export interface Recovered {
  /** What changed since the last checkpoint. */
  readonly entries: Entries
  readonly head: number
  readonly checkpointed: number
  /** The last stored heartbeat. */
  readonly clock: LogClock
}

interface Change {
  readonly record: DecodedTransactionRecord
  readonly sequence: number
}

/**
 * Reads what a claimed log holds beyond its images. The tail is contiguous from `checkpointed` + 1 to the head, or this
 * throws `storeCorrupt`. Runs no user code: a record is the next image, or its delta.
 */
export async function recover(store: Store, handle: LogHandle): Promise<Recovered> {
  const { checkpointed, head } = handle.claimed
  let { clock } = handle.claimed
  const changes = new Map<TransactionKey, Change[]>()
  let read = checkpointed
  for await (const segment of handle.read(checkpointed)) {
    const { header, records } = readSegment(segment.bytes, `segment ${segment.sequence} of log ${handle.log}`)
    read += 1
    if (header.sequence !== read) throw gap(handle.log, read, header.sequence)
    // A checkpoint may have stored a later one than the segments that it left.
    if (header.clock.wallMs > clock.wallMs) clock = header.clock
    for (const record of records()) {
      const change: Change = { record, sequence: header.sequence }
      const known = changes.get(record.key)
      // A full record makes everything before it needless.
      if (known === undefined || isWhole(record)) changes.set(record.key, [change])
      else known.push(change)
    }
  }
  if (read !== head) throw gap(handle.log, head, read)
  const entries = await apply(store, changes)
  return { entries, head, checkpointed, clock }
}

function gap(log: number, expected: number, found: number): EscrowError {
  return new EscrowError('storeCorrupt', `log ${log}: segment ${expected} is missing (found ${found})`)
}

async function apply(store: Store, changes: Map<TransactionKey, Change[]>): Promise<Entries> {
  const entries = new Entries()
  for await (const [key, row] of loadImages(store, [...changes.keys()])) {
    let image: TransactionImage | undefined =
      row === undefined ? undefined : decodeTransactionImage(row.bytes)
    let sequence = row?.sequence ?? 0
    let unsavedFrom = 0
    for (const change of changes.get(key) ?? []) {
      // The row stands for this change already: the checkpoint got further than its last word.
      if (change.sequence <= (row?.sequence ?? 0)) continue
      image = applyTransactionRecord(image, change.record)
      sequence = change.sequence
      if (unsavedFrom === 0) unsavedFrom = change.sequence
    }
    if (image !== undefined && unsavedFrom !== 0)
      entries.add(new Entry(image, { sequence, unsavedFrom, isStored: true }))
  }
  return entries
}
