/** Counters as transactions: what the store's crash test writes, recovers and compares. */
import type { MessageImage } from '../../../src/core/message.ts'
import { ByteWriter } from '../../../src/store/binary.ts'
import type { ImageRow } from '../../../src/store/images.ts'
import type { LogHandle } from '../../../src/store/log.ts'
import { decodeImage, encodeImage } from '../../../src/store/record.ts'
import { readSegment } from '../../../src/store/segment.ts'
import type { Store } from '../../../src/store/store.ts'
import { applyTransactionRecord } from '../../../src/store/transaction-record.ts'
import { rowOf } from '../../store/contract-fixtures.ts'

/** By name: the image, and the sequence that it stands for. */
export type Counters = Map<string, { readonly image: MessageImage; readonly sequence: number }>

const ALL = 100_000

/** The next image of a counter. Every seventh count it is parked, so that it changes its places in the indexes. */
export function counterImage(name: string, previous: MessageImage | undefined): MessageImage {
  const checks = (previous?.state.checks ?? 0) + 1
  const state: MessageImage['state'] =
    checks % 7 === 0
      ? { phase: 'undecided', checks, reason: 'every seventh' }
      : {
          phase: 'prepared',
          checks,
          misses: 0,
          nextCheckAtMs: checks * 10,
          unresolvedAtMs: 1e9,
          lastCheckAtMs: 0,
        }
  return { head: previous?.head ?? head(name), state }
}

function head(name: string): MessageImage['head'] {
  const fields = {
    kind: 'message',
    namespace: 'default',
    id: name,
    executionId: name,
    checker: 'orders',
    orderingKey: '',
    messages: [],
    checkBack: { delayMs: 1, delayMsMax: 1, checksMax: 1, onExhausted: 'park', unresolvedMsMax: 1 },
    retry: { attemptsMax: 1, delayMs: 1, delayMsMax: 1, attemptTimeoutMs: 1, lastDispatchMsMax: 1 },
    databaseId: '',
    trace: { traceparent: '', tracestate: '', baggage: '' },
    contentHash: 'x'.repeat(name.length * 40),
    preparedAtMs: 1,
    preparedAtLogMs: 1,
  }
  return fields as unknown as MessageImage['head']
}

/** A counter as a row of a checkpoint. */
export function rowOfCounter(
  name: string,
  { image, sequence }: { image: MessageImage; sequence: number },
): ImageRow {
  const writer = new ByteWriter()
  encodeImage(writer, image, { bodies: true })
  const { state } = image
  return rowOf(`default/${name}`, sequence, {
    status: state.phase === 'prepared' ? 'prepared' : 'parked',
    bytes: writer.copy(),
    dueLogMs: state.phase === 'prepared' ? state.nextCheckAtMs : undefined,
  })
}

/** Rows, and the tail of the log on top of them. Throws where the indexes and the rows don't agree. */
export async function recoverCounters(store: Store, handle: LogHandle): Promise<Counters> {
  const counters: Counters = new Map()
  const rows = await store.images.query({ namespace: 'default', statuses: [], after: '', limit: ALL })
  const expected = new Map<string, number>()
  for (const { stored } of rows) {
    const image = decodeImage(stored.bytes)
    counters.set(image.head.id, { image, sequence: stored.sequence })
    if (image.state.phase === 'prepared') expected.set(`default/${image.head.id}`, image.state.nextCheckAtMs)
  }
  await checkIndexes(store, expected, rows.length)
  let at = handle.claimed.checkpointed
  for await (const segment of handle.read(at)) {
    at += 1
    const { header, records } = readSegment(segment.bytes)
    if (header.sequence !== at) throw new Error(`segment ${header.sequence} where ${at} was expected`)
    for (const record of records()) {
      const name = record.key.slice('default/'.length)
      const known = counters.get(name)
      if (known !== undefined && known.sequence >= at) continue
      counters.set(name, {
        image: applyTransactionRecord(known?.image, record) as MessageImage,
        sequence: at,
      })
    }
  }
  if (at !== handle.claimed.head) throw new Error(`the log ends at ${at}, its head is ${handle.claimed.head}`)
  return counters
}

async function checkIndexes(store: Store, expected: Map<string, number>, rows: number): Promise<void> {
  const due = await store.images.due(0, 'log', Number.MAX_VALUE, undefined, ALL)
  if (due.length !== expected.size) throw new Error(`${due.length} are due, ${expected.size} should be`)
  for (const { key, dueMs } of due)
    if (expected.get(key) !== dueMs) throw new Error(`${key} is due at ${dueMs}`)
  const parked = await store.images.query({
    namespace: 'default',
    statuses: ['parked'],
    after: '',
    limit: ALL,
  })
  if (parked.length !== rows - expected.size)
    throw new Error(`${parked.length} parked of ${rows} rows, ${expected.size} due`)
}
