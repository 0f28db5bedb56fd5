import { EscrowError } from '../core/errors.ts'
import type { TransactionKey } from '../core/ids.ts'
import type { DueClock, DueEntry } from '../store/images.ts'
import type { LogClock } from '../store/log.ts'
import type { Store } from '../store/store.ts'

/** What the scan needs of its log. */
export interface DueScanOptions {
  readonly store: Store
  readonly log: number
  /** Told of each transaction that is due before the horizon, in memory or not: there its alarm is set. */
  readonly due: (key: TransactionKey) => void
  /** The store doesn't answer, or (undefined) does again. */
  readonly failing: (error: EscrowError | undefined) => void
}

/** How far ahead of its time an entry is brought into memory: more than the pause between two checkpoints. */
export const HORIZON_MS = 3_000
/** Entries a page: with one page a tick, this paces a burst to 50,000 a second. */
const PAGE = 1_000
const ADVANCE_MS = 500
const RETRY_MS = 1_000

interface Cursor {
  readonly clock: DueClock
  /** Everything up to here has been brought in. */
  scannedMs: number
  after: DueEntry | undefined
  isRunning: boolean
  /** Log time before which a scan that failed isn't repeated. */
  notBeforeMs: number
}

const cursorOf = (clock: DueClock): Cursor => ({
  clock,
  scannedMs: 0,
  after: undefined,
  isRunning: false,
  notBeforeMs: 0,
})

/**
 * Brings waiting transactions into memory shortly before they are due. Together with the rule that whatever comes to be
 * due before the horizon sets its alarm itself, nothing is missed: an entry's row is either written before the scan passes
 * its time, or the entry is in memory when it does.
 */
export class DueScan {
  readonly #options: DueScanOptions
  readonly #log = cursorOf('log')
  readonly #wall = cursorOf('wall')
  /** Log time up to which entries set alarms themselves. */
  horizonMs = 0

  constructor(options: DueScanOptions) {
    this.#options = options
  }

  /** Sets the horizon before anything is attended to. */
  open({ logMs }: LogClock): void {
    this.horizonMs = logMs + HORIZON_MS
  }

  /** Everything that holds its key back, page by page: it is due at 0, always. */
  async *held(): AsyncGenerator<readonly TransactionKey[]> {
    do yield await this.#page(this.#log, 0)
    while (this.#log.after?.key !== LAST_KEY)
  }

  advance(clock: LogClock): void {
    this.open(clock)
    this.#advance(this.#log, clock.logMs + HORIZON_MS, clock.logMs)
    this.#advance(this.#wall, clock.wallMs + HORIZON_MS, clock.logMs)
  }

  #advance(cursor: Cursor, untilMs: number, logMs: number): void {
    if (cursor.isRunning || logMs < cursor.notBeforeMs || untilMs - cursor.scannedMs < ADVANCE_MS) return
    cursor.isRunning = true
    this.#page(cursor, untilMs)
      .then((keys) => {
        this.#options.failing(undefined)
        for (const key of keys) this.#options.due(key)
      })
      .catch((error) => {
        cursor.notBeforeMs = logMs + RETRY_MS
        this.#options.failing(EscrowError.from(error))
      })
      .finally(() => {
        cursor.isRunning = false
      })
  }

  async #page(cursor: Cursor, untilMs: number): Promise<readonly TransactionKey[]> {
    const { store, log } = this.#options
    const entries = await store.images.due(log, cursor.clock, untilMs, cursor.after, PAGE)
    if (entries.length < PAGE) {
      cursor.scannedMs = untilMs
      // The next scan starts behind this time, whatever the last key was.
      cursor.after = { dueMs: untilMs, key: LAST_KEY }
    } else {
      cursor.after = entries.at(-1)
    }
    return entries.map(({ key }) => key)
  }
}

/** Behind every key of a store. */
const LAST_KEY = '\u{10ffff}' as TransactionKey
