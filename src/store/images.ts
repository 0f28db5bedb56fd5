/** The port behind which images are kept: what a transaction is as of a sequence of its log. */
import type { TransactionKey } from '../core/ids.ts'
import type { LogClock, LogHandle } from './log.ts'

/** What `list` can filter by without reading an image. */
export type ImageStatus =
  | 'prepared'
  | 'committed'
  | 'delivered'
  | 'rolledBack'
  | 'parked'
  | 'running'
  | 'completed'
  | 'compensating'
  | 'compensated'

/** What a saga may be found by. */
export interface Attributes {
  /** Empty for none. */
  readonly businessKey: string
  readonly tags: Readonly<Record<string, string>>
}

/** What people read about a transaction in a store that they can query, beside its key, its status and its attributes. */
export interface ImageFacts {
  readonly kind: 'message' | 'saga'
  /** The name of a saga's definition, empty for a routing slip; of a half message its checker. */
  readonly name: string
  /** Of the definition; 0 for a half message. */
  readonly version: number
  /** Wall clock. */
  readonly beganAtMs: number
  /** Wall clock: when a half message was committed or rolled back, or a saga ended; 0 before. */
  readonly settledAtMs: number
  /** 32 hexadecimal digits; empty for none. */
  readonly traceId: string
  /** Why it is parked, undone or rolled back; empty for none. */
  readonly error: string
}

/** One image as a checkpoint writes it. */
export interface ImageRow {
  readonly key: TransactionKey
  /** The sequence of the segment that the image stands for; a row is never replaced by one of a lower sequence. */
  readonly sequence: number
  readonly status: ImageStatus
  /** The encoded image: see `record.ts`. */
  readonly bytes: Uint8Array
  /** When it must be looked at next in log time; undefined when nothing is due. */
  readonly dueLogMs: number | undefined
  /** The same for the wall clock. */
  readonly dueWallMs: number | undefined
  /** Wall clock; 0 while it lives. A finished row moves to its day's partition and leaves the due index. */
  readonly finishedAtMs: number
  /** No row of this transaction was ever written, so that none has to be looked for. */
  readonly isNew: boolean
  /** Undefined for one that has none. */
  readonly attributes: Attributes | undefined
  /** Makes what people read about it: only for a store that shows it. */
  readonly facts: () => ImageFacts
}

/** A row as it is read back. */
export interface StoredImage {
  readonly sequence: number
  readonly bytes: Uint8Array
  readonly finishedAtMs: number
}

/** What one checkpoint makes durable together. */
export interface Checkpoint {
  /** In any order, one a key: a store whose rows are locked by writing sorts them. */
  readonly rows: readonly ImageRow[]
  /** Everything up to this sequence stands in rows now. */
  readonly checkpointed: number
  readonly clock: LogClock
}

/** Which clock a time is meant by. */
export type DueClock = 'log' | 'wall'

/** An entry of the due index. */
export interface DueEntry {
  readonly key: TransactionKey
  readonly dueMs: number
}

/** What `list` asks for. */
export interface ImageQuery {
  readonly namespace: string
  /**
   * Empty: all that live. With `delivered`, `rolledBack`, `completed` or `compensated`, finished ones within the retention too. As
   * with `attributes`, a store may answer others as well.
   */
  readonly statuses: readonly ImageStatus[]
  /**
   * Only those that have all of these; an empty business key stands for any. A store may answer others as well, where to find
   * out costs more than to look again, but misses none. Undefined: any.
   */
  readonly attributes?: Attributes | undefined
  /** Only keys after this one; empty for the start. */
  readonly after: string
  readonly limit: number
}

/** A store of images. */
export interface ImageStore {
  /** Whether it asks rows for their facts. */
  readonly showsFacts: boolean
  /** Writes the rows and advances `checkpointed`, in one transaction that the handle's epoch fences. Rejects: unknown, repeat it. */
  checkpoint(handle: LogHandle, checkpoint: Checkpoint): Promise<'done' | 'fenced'>
  /** The stored images of these keys, in their order: live ones, then finished ones of the retention window. */
  load(keys: readonly TransactionKey[]): Promise<readonly (StoredImage | undefined)[]>
  /** Due entries of a log up to and including `untilMs`, by time and key, after the entry given; at most `limit`. */
  due(
    log: number,
    clock: DueClock,
    untilMs: number,
    after: DueEntry | undefined,
    limit: number,
  ): Promise<readonly DueEntry[]>
  /** Rows by key, for `list`. */
  query(query: ImageQuery): Promise<readonly { readonly key: TransactionKey; readonly stored: StoredImage }[]>
  /** Drops the partitions of the days that ended before this wall-clock time; returns how many. */
  dropFinishedBefore(wallMs: number): Promise<number>
}

/** Whether what a transaction has is all that is wanted. */
export function hasAttributes(attributes: Attributes | undefined, wanted: Attributes): boolean {
  if (wanted.businessKey !== '' && attributes?.businessKey !== wanted.businessKey) return false
  return Object.entries(wanted.tags).every(
    ([name, value]) =>
      attributes !== undefined && Object.hasOwn(attributes.tags, name) && attributes.tags[name] === value,
  )
}

const DAY_MS = 86_400_000

/** The day since the Unix epoch, UTC, that a wall-clock time falls on: the partition of what finished then. */
export function dayOf(wallMs: number): number {
  return Math.floor(wallMs / DAY_MS)
}

/** The order of keys in every store: that of their UTF-8 bytes, which is that of their code points. */
export function compareKeys(one: string, other: string): number {
  // UTF-16 orders the same but for surrogates, which stand below U+E000 there and above U+FFFF in truth.
  const at = firstDifference(one, other)
  const a = rank(one.charCodeAt(at))
  const b = rank(other.charCodeAt(at))
  return a - b
}

function firstDifference(one: string, other: string): number {
  const length = Math.min(one.length, other.length)
  let at = 0
  while (at < length && one.charCodeAt(at) === other.charCodeAt(at)) at += 1
  return at
}

function rank(unit: number): number {
  // Past the end, charCodeAt is NaN: a prefix comes first.
  if (Number.isNaN(unit)) return -1
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit
}
