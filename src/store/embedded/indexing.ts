/**
 * Indexes the rows that a store of format 1 holds by their search attributes, in the background. A mark in the store says up to
 * where that got; it moves in the write that indexes the rows before it, so that a process that is killed goes on there, and
 * goes with the last of them. Whatever a checkpoint writes meanwhile is indexed by the checkpoint.
 *
 * | state    | mark                     | queries by search attributes | then                                          |
 * |----------|--------------------------|------------------------------|-----------------------------------------------|
 * | indexing | a table, and a key there | look at all rows             | done; stopped (`close`, or a write that failed) |
 * | stopped  | likewise                 | look at all rows             | indexing, when the store is opened again      |
 * | done     | none                     | read the index               |                                               |
 */
import { EscrowError } from '../../core/errors.ts'
import { ByteWriter } from '../binary.ts'
import { attributesOf, decodeTransactionImage } from '../transaction-record.ts'
import { Changes } from './changes.ts'
import type { Days } from './days.ts'
import type { Environment, Table } from './environment.ts'
import type { EmbeddedImagesOptions, ImageTables } from './images.ts'
import {
  isOfMessages,
  keyText,
  NOTHING,
  putRow,
  rowFacts,
  storedImage,
  successor,
  termKey,
  textKey,
} from './row.ts'
import { termsOf } from './terms.ts'

/**
 * What one write looks at: rows, their bytes, and the bytes of those that are decoded, which takes longest. It is a few
 * milliseconds, in which nothing else runs; a thousand half messages with bodies of 1 MiB would be a second.
 */
const ROWS_PER_WRITE = 1_000
const BYTES_PER_WRITE = 1 << 20
const DECODED_BYTES_PER_WRITE = 64 << 10
const TOLD_EVERY_MS = 10_000
const MARK = textKey('indexing')
/** Namespaces begin with a digit or a letter; the indexes in a day's table stand before them. */
const FIRST_ROW = textKey('0')

/** What indexing needs. */
export interface IndexingOptions extends Pick<EmbeddedImagesOptions, 'now' | 'log' | 'afterWrite'> {
  readonly environment: Environment
  /** Where the mark stands. */
  readonly marks: Table
  readonly tables: ImageTables
  readonly days: Days
  /** Does this while nothing else writes images. */
  readonly inTurn: <T>(work: () => Promise<T>) => Promise<T>
}

/** A row that was looked at, after all that stand before it: its table is a day's, or that of the live ones. */
interface Mark {
  readonly day: number | undefined
  readonly after: Uint8Array
}

/** Puts the mark before all rows; for inside a write. */
export function putFirstMark(marks: Table): void {
  marks.put(MARK, markValue({ day: undefined, after: textKey('') }))
}

/** The indexing of what an older version stored. */
export class Indexing {
  readonly #options: IndexingOptions
  readonly #writer = new ByteWriter(4096)
  #mark: Mark | undefined
  #isStopped = false
  #looked = 0
  #running: Promise<void> | undefined

  constructor(options: IndexingOptions) {
    this.#options = options
    this.#mark = markOf(options.marks.get(MARK))
  }

  /** Whether every row that has search attributes is indexed by them. */
  get isDone(): boolean {
    return this.#mark === undefined
  }

  /** Goes on where it was stopped, if there is anything to do. */
  start(): void {
    if (!this.isDone) this.#running = this.#run()
  }

  /** Returns when no write is under way. */
  async stop(): Promise<void> {
    this.#isStopped = true
    await this.#running
  }

  async #run(): Promise<void> {
    const { now, log, inTurn, afterWrite } = this.#options
    const without = 'until that is done, a list by business key or tags looks at every transaction'
    const rows = this.#count()
    log(
      'info',
      `indexing the search attributes of up to ${rows} transactions of an older version; ${without}`,
    )
    let toldAtMs = now()
    try {
      while (this.#mark !== undefined && !this.#isStopped) {
        const mark = this.#mark
        this.#mark = await inTurn(() => this.#advance(mark))
        afterWrite()
        if (now() - toldAtMs < TOLD_EVERY_MS) continue
        toldAtMs = now()
        log('info', `indexing search attributes: looked at ${this.#looked} of up to ${rows} transactions`)
      }
      if (this.isDone) log('info', `indexed the search attributes of ${this.#looked} transactions`)
    } catch (thrown) {
      const { message } = EscrowError.from(thrown)
      log(
        'warn',
        `search attributes are not indexed: ${message}; it goes on when the store is next opened; ${without}`,
      )
    }
  }

  /** More than there are, where a day has been indexed. */
  #count(): number {
    const { tables, days } = this.#options
    const all = [tables.live, ...days.tables.map(({ table }) => table)]
    return all.reduce((sum, table) => sum + (table.getStats() as { entryCount: number }).entryCount, 0)
  }

  /** Indexes the next rows, durably; returns the mark behind them, undefined where there are no more. */
  async #advance(mark: Mark): Promise<Mark | undefined> {
    const { environment, marks } = this.#options
    environment.refresh()
    this.#writer.truncate()
    const changes = new Changes()
    const last = this.#planRows(changes, mark)
    const next = last === undefined ? this.#nextTable(mark) : { day: mark.day, after: last }
    await environment.writeAlways(() => {
      changes.queue()
      if (next === undefined) marks.remove(MARK)
      else marks.put(MARK, markValue(next))
    })
    return next
  }

  /** Returns the last row's key, undefined at the table's end. */
  #planRows(changes: Changes, { day, after }: Mark): Uint8Array | undefined {
    // The day may have been dropped.
    const table = this.#tableOf(day)
    if (table === undefined) return undefined
    let rows = 0
    let bytes = 0
    let decoded = 0
    for (const { key, value } of table.getRange({
      start: after.length === 0 ? FIRST_ROW : successor(after),
    })) {
      decoded += this.#plan(changes, table, key, value)
      bytes += value.length
      rows += 1
      this.#looked += 1
      if (rows === ROWS_PER_WRITE || bytes >= BYTES_PER_WRITE || decoded >= DECODED_BYTES_PER_WRITE)
        return key
    }
    return undefined
  }

  /** Returns how many bytes were decoded. */
  #plan(changes: Changes, table: Table, at: Uint8Array, row: Uint8Array): number {
    const { tables } = this.#options
    const key = keyText(at)
    const facts = rowFacts(key, row)
    if (isOfMessages(facts.status) || facts.terms.length > 0) return 0
    const stored = storedImage(key, row)
    const terms = termsOf(attributesOf(decodeTransactionImage(stored.bytes)))
    const isLive = table === tables.live
    for (const term of terms)
      changes.put(isLive ? tables.terms : table, termKey(term, facts.status, key), NOTHING)
    if (isLive && terms.length > 0) {
      const start = putRow(this.#writer, facts.log, { ...facts, ...stored }, terms)
      changes.put(table, textKey(key), this.#writer.bytes.subarray(start, this.#writer.length))
    }
    return row.length
  }

  #tableOf(day: number | undefined): Table | undefined {
    const { tables, days } = this.#options
    return day === undefined ? tables.live : days.tables.find((each) => each.day === day)?.table
  }

  #nextTable({ day: before = Number.NEGATIVE_INFINITY }: Mark): Mark | undefined {
    const later = this.#options.days.tables.map(({ day }) => day).filter((day) => day > before)
    return later.length === 0 ? undefined : { day: Math.min(...later), after: textKey('') }
  }
}

function markValue({ day, after }: Mark): Uint8Array {
  return Buffer.concat([textKey(`${day ?? 'live'} `), after])
}

function markOf(value: Uint8Array | undefined): Mark | undefined {
  if (value === undefined) return undefined
  const space = value.indexOf(0x20)
  const table = keyText(value.subarray(0, space))
  return {
    day: table === 'live' ? undefined : Number(table),
    after: Uint8Array.from(value.subarray(space + 1)),
  }
}
