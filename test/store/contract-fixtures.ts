import type { TransactionKey } from '../../src/core/ids.ts'
import { type Checkpoint, compareKeys, type ImageRow } from '../../src/store/images.ts'
import type { Segment } from '../../src/store/log.ts'
import { SegmentBuilder } from '../../src/store/segment.ts'

/** 15 November 2023, noon UTC. */
export const NOON_MS = 1_700_049_600_000
/** A key as the store takes it. */
export const key = (text: string): TransactionKey => text as TransactionKey

/** A segment as a writer with this nonce would append it. */
export function segmentOf(
  sequence: number,
  options: { epoch?: number; nonce?: number; logMs?: number } = {},
): Segment {
  const { epoch = 1, nonce = 1, logMs = 0 } = options
  const clock = { wallMs: NOON_MS, logMs }
  return new SegmentBuilder().finish({ nonce: Buffer.alloc(16, nonce), epoch, sequence, clock })
}

/** A row of a waiting transaction, or with `finishedAtMs` a finished one. */
export function rowOf(name: string, sequence: number, change: Partial<ImageRow> = {}): ImageRow {
  return {
    key: key(name),
    sequence,
    status: change.finishedAtMs ? 'delivered' : 'prepared',
    bytes: Buffer.from(`image of ${name} at ${sequence}`),
    dueLogMs: undefined,
    dueWallMs: undefined,
    finishedAtMs: 0,
    isNew: false,
    attributes: undefined,
    facts: () => ({
      kind: 'message',
      name: 'orders',
      version: 0,
      beganAtMs: NOON_MS,
      settledAtMs: change.finishedAtMs ?? 0,
      traceId: '',
      error: '',
    }),
    ...change,
  }
}

/** A checkpoint of these rows, in the order of their keys. */
export function checkpointOf(checkpointed: number, ...rows: readonly ImageRow[]): Checkpoint {
  const ordered = [...rows].sort((one, other) => compareKeys(one.key, other.key))
  return { rows: ordered, checkpointed, clock: { wallMs: NOON_MS, logMs: checkpointed } }
}
