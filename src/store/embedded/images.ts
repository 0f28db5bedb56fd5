/**
 * The images of the embedded store. Live rows stand in one table; what finished, in its day's. A checkpoint is many small
 * writes, so that an append in between waits for one of them at most. They become durable one by one, before the log's
 * `checkpointed` says so, and that is harmless: each row carries the sequence that it stands for, so whoever recovers from
 * the stored `checkpointed` replays the tail and skips what a row has already. A row and its places in the indexes are one
 * write. Each write is conditional on the epoch, so a zombie's checkpoint stops at its next one.
 *
 * Reads come before the write that depends on them, not in it: nothing else writes images, and checkpoints take turns.
 */
import { InvariantViolation } from '../../core/errors.ts'
import type { TransactionKey } from '../../core/ids.ts'
import { ByteWriter } from '../binary.ts'
import {
  type Checkpoint,
  type DueClock,
  type DueEntry,
  dayOf,
  type ImageQuery,
  type ImageRow,
  type ImageStore,
  type StoredImage,
} from '../images.ts'
import type { LogHandle } from '../log.ts'
import { Changes } from './changes.ts'
import { Days } from './days.ts'
import type { Environment, Table } from './environment.ts'
import { Indexing } from './indexing.ts'
import { EmbeddedHandle, writeUnderEpoch } from './logs.ts'
import { queryImages } from './query.ts'
import {
  dueEntry,
  dueKey,
  fenceKey,
  NOTHING,
  numbersValue,
  prefixedKey,
  putRow,
  RARE_ENDS,
  type RowFacts,
  rowFacts,
  statusPrefix,
  storedImage,
  successor,
  termKey,
  textKey,
} from './row.ts'
import { isSameTerms, NO_TERMS, termsOf } from './terms.ts'

/** Rows of one write of a checkpoint, at most. */
const ROWS_PER_WRITE = 2_000
/** Bytes of one write of a checkpoint; one row may be larger. */
const BYTES_PER_WRITE = 1 << 20

/** The tables that images are kept in, beside the days. */
export interface ImageTables {
  readonly live: Table
  readonly due: Table
  readonly statuses: Table
  readonly terms: Table
}

/** What the images of the embedded store need. */
export interface EmbeddedImagesOptions {
  readonly environment: Environment
  readonly retentionMs: number
  readonly now: () => number
  readonly log: (level: 'info' | 'warn', message: string) => void
  /** Called after each write of a checkpoint, and of the indexing: where a test stops it. */
  readonly afterWrite: () => void
}

/** The images of the embedded store. */
export class EmbeddedImages implements ImageStore {
  readonly showsFacts = false
  readonly #options: EmbeddedImagesOptions
  readonly #environment: Environment
  readonly #tables: ImageTables
  readonly #fences: Table
  readonly #days: Days
  readonly #indexing: Indexing
  readonly #writer = new ByteWriter(256 << 10)
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: EmbeddedImagesOptions) {
    const { environment } = options
    this.#options = options
    this.#environment = environment
    this.#tables = {
      live: environment.table('live'),
      due: environment.table('due'),
      statuses: environment.table('statuses'),
      terms: environment.table('terms'),
    }
    this.#fences = environment.table('fences', { versions: true })
    this.#days = new Days(environment, environment.table('days'))
    this.#indexing = new Indexing({
      marks: environment.table('meta'),
      tables: this.#tables,
      days: this.#days,
      inTurn: (work) => this.#inTurn(work),
      ...options,
    })
  }

  /** Goes on with what an older version left to do. */
  start(): void {
    this.#indexing.start()
  }

  /** Ends what goes on by itself, so that the environment can be closed. */
  async stop(): Promise<void> {
    await this.#indexing.stop()
  }

  async checkpoint(handle: LogHandle, checkpoint: Checkpoint): Promise<'done' | 'fenced'> {
    if (!(handle instanceof EmbeddedHandle)) throw new InvariantViolation('a handle of another store')
    if (handle.isReleased) return 'fenced'
    return await this.#inTurn(async () => {
      const { rows } = checkpoint
      for (let from = 0; from < rows.length; ) {
        const to = chunkEnd(rows, from)
        if (!(await this.#write(handle, rows.slice(from, to)))) return 'fenced'
        this.#options.afterWrite()
        from = to
      }
      const isMine = await handle.advance(checkpoint.checkpointed, checkpoint.clock)
      this.#options.afterWrite()
      return isMine ? 'done' : 'fenced'
    })
  }

  /** Lets only this epoch's owner of the log write images from here on; one of a higher epoch stays. */
  async fence(log: number, epoch: number): Promise<void> {
    const key = fenceKey('epoch', log)
    const value = numbersValue(epoch)
    const put = (): void => void this.#fences.put(key, value, epoch)
    for (;;) {
      this.#environment.refresh()
      const known = this.#fences.getEntry(key)?.version
      if (known !== undefined && known >= epoch) return
      const isWritten = await this.#environment.write(() =>
        known === undefined ? this.#fences.ifNoExists(key, put) : this.#fences.ifVersion(key, known, put),
      )
      if (isWritten) return
    }
  }

  async load(keys: readonly TransactionKey[]): Promise<readonly (StoredImage | undefined)[]> {
    this.#environment.refresh()
    return keys.map((key) => {
      const row = this.#find(textKey(key))
      return row === undefined ? undefined : storedImage(key, row)
    })
  }

  async due(
    log: number,
    clock: DueClock,
    untilMs: number,
    after: DueEntry | undefined,
    limit: number,
  ): Promise<readonly DueEntry[]> {
    this.#environment.refresh()
    const start =
      after === undefined ? dueKey(log, clock, 0, '') : successor(dueKey(log, clock, after.dueMs, after.key))
    // No UTF-8 has a byte of 255: this stands behind every key of that time.
    const end = Buffer.concat([dueKey(log, clock, untilMs, ''), Buffer.from([255])])
    if (untilMs < 0 || limit < 1 || Buffer.compare(start, end) >= 0) return []
    return Array.from(this.#tables.due.getKeys({ start, end, limit }), dueEntry)
  }

  async query(
    query: ImageQuery,
  ): Promise<readonly { readonly key: TransactionKey; readonly stored: StoredImage }[]> {
    this.#environment.refresh()
    // What isn't indexed yet would be missed: who asks looks at all rows again.
    const terms = this.#indexing.isDone ? termsOf(query.attributes) : NO_TERMS
    return queryImages(this.#tables, this.#days.tables, query, terms)
  }

  async dropFinishedBefore(wallMs: number): Promise<number> {
    this.#environment.assertOpen()
    const { now, retentionMs } = this.#options
    return await this.#inTurn(() => this.#days.dropBefore(dayOf(Math.min(wallMs, now() - retentionMs))))
  }

  #find(key: Uint8Array): Uint8Array | undefined {
    return this.#tables.live.getBinary(key) ?? this.#findFinished(key)
  }

  #findFinished(key: Uint8Array): Uint8Array | undefined {
    for (const { table } of this.#days.tables) {
      const row = table.getBinary(key)
      if (row !== undefined) return row
    }
    return undefined
  }

  async #write(handle: EmbeddedHandle, rows: readonly ImageRow[]): Promise<boolean> {
    for (const { finishedAtMs } of rows) {
      if (finishedAtMs !== 0 && this.#days.of(finishedAtMs) === undefined) await this.#days.make(finishedAtMs)
    }
    this.#environment.refresh()
    this.#writer.truncate()
    const changes = new Changes()
    for (const row of rows) this.#plan(changes, handle.log, row)
    return await writeUnderEpoch(this.#environment, this.#fences, handle, () => void changes.queue())
  }

  #plan(changes: Changes, log: number, row: ImageRow): void {
    const { live } = this.#tables
    const day = row.finishedAtMs === 0 ? undefined : this.#days.of(row.finishedAtMs)
    const key = textKey(row.key)
    const stored = row.isNew
      ? undefined
      : (live.getBinary(key) ?? (day === undefined ? this.#findFinished(key) : undefined))
    const known = stored === undefined ? undefined : rowFacts(row.key, stored)
    if (known !== undefined && known.sequence > row.sequence) return
    const terms = termsOf(row.attributes)
    const start = putRow(this.#writer, log, row, day === undefined ? terms : NO_TERMS)
    const value = this.#writer.bytes.subarray(start, this.#writer.length)
    if (day === undefined) {
      changes.put(live, key, value)
      this.#planIndexes(changes, row.key, known, { ...row, log, terms })
      return
    }
    changes.put(day, key, value)
    const rare = RARE_ENDS[row.status]
    if (rare !== undefined) changes.put(day, prefixedKey(rare, row.key), NOTHING)
    for (const term of terms) changes.put(day, termKey(term, row.status, row.key), NOTHING)
    if (known === undefined) return
    changes.remove(live, key)
    this.#planIndexes(changes, row.key, known, undefined)
  }

  /** Takes the row's places in the indexes back, as far as they change, and gives it its new ones. */
  #planIndexes(
    changes: Changes,
    key: TransactionKey,
    before: RowFacts | undefined,
    after: RowFacts | undefined,
  ): void {
    const { due, statuses } = this.#tables
    this.#planTerms(changes, key, before, after)
    if (before?.status !== after?.status) {
      if (before !== undefined) changes.remove(statuses, prefixedKey(statusPrefix(before.status), key))
      if (after !== undefined) changes.put(statuses, prefixedKey(statusPrefix(after.status), key), NOTHING)
    }
    for (const clock of ['log', 'wall'] as const) {
      const from = dueOf(before, clock)
      const to = dueOf(after, clock)
      if (from === to && before?.log === after?.log) continue
      if (before !== undefined && from !== undefined)
        changes.remove(due, dueKey(before.log, clock, from, key))
      if (after !== undefined && to !== undefined)
        changes.put(due, dueKey(after.log, clock, to, key), NOTHING)
    }
  }

  #planTerms(
    changes: Changes,
    key: TransactionKey,
    before: RowFacts | undefined,
    after: RowFacts | undefined,
  ): void {
    const from = before?.terms ?? NO_TERMS
    const to = after?.terms ?? NO_TERMS
    if (before?.status === after?.status && isSameTerms(from, to)) return
    const { terms } = this.#tables
    // What stands in both is removed and put again, in this order.
    if (before !== undefined)
      for (const term of from) changes.remove(terms, termKey(term, before.status, key))
    if (after !== undefined)
      for (const term of to) changes.put(terms, termKey(term, after.status, key), NOTHING)
  }

  /** One checkpoint or drop at a time. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => {})
    return done
  }
}

function dueOf(facts: RowFacts | undefined, clock: DueClock): number | undefined {
  return clock === 'log' ? facts?.dueLogMs : facts?.dueWallMs
}

function chunkEnd(rows: readonly ImageRow[], from: number): number {
  let bytes = 0
  let to = from
  while (to < rows.length && to - from < ROWS_PER_WRITE && bytes < BYTES_PER_WRITE) {
    bytes += (rows[to] as ImageRow).bytes.length
    to += 1
  }
  return to
}
