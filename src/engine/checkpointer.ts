import { EscrowError } from '../core/errors.ts'
import { isOrdered, type MessageImage, outstanding } from '../core/message.ts'
import { outstandingOfSaga } from '../core/saga/outstanding.ts'
import { isSaga, type TransactionImage, transactionStatusOf } from '../core/transaction.ts'
import { ByteWriter } from '../store/binary.ts'
import type { ImageRow } from '../store/images.ts'
import type { LogClock, LogHandle } from '../store/log.ts'
import type { Store } from '../store/store.ts'
import { attributesOf, encodeTransactionImage } from '../store/transaction-record.ts'
import { type Entry, Packer } from './entry.ts'
import { factsOf } from './facts.ts'

/** What checkpoints need of their log. */
export interface CheckpointerOptions {
  readonly store: Store
  readonly handle: LogHandle
  /** As of the recovery. */
  readonly checkpointed: number
  readonly intervalMs: number
  /** Rows of one part. */
  readonly rowsMax: number
  /** The last segment that is durable. */
  readonly durable: () => number
  readonly clock: () => LogClock
  /** A row stands for the entry now: what is due about it is in the due index. */
  readonly written: (entry: Entry) => void
  /** A checkpoint is done, and with it a heartbeat. */
  readonly stored: () => void
  readonly evict: (entry: Entry) => void
  /** The store doesn't answer, or (undefined) does again. */
  readonly failing: (error: EscrowError | undefined) => void
  readonly fenced: () => void
}

/** An entry whose row is being written, and what is restored if it isn't. */
interface Taken {
  readonly entry: Entry
  readonly unsavedFrom: number
  readonly unsavedAtMs: number
}

/** How often an idle log stores its clock, so that an outage is told from idleness. */
const HEARTBEAT_MS = 5_000
/** A part of a checkpoint is full with so many bytes, whatever its rows are. */
const PART_BYTES_MAX = 16 << 20

/** Writes what changed to images about once a second, trims the log behind it, and lets clean entries leave memory. */
export class Checkpointer {
  readonly #options: CheckpointerOptions
  readonly #writer = new ByteWriter(4096)
  readonly #packer: Packer
  #dirty: Entry[] = []
  #candidates: Entry[] = []
  #running: Promise<void> | undefined
  #startedAtMs = 0
  #checkpointed: number
  /** Wall clock of the last one that is done: what `list` is true for. */
  asOfMs = 0

  constructor(options: CheckpointerOptions) {
    this.#options = options
    this.#packer = new Packer(options.store.images.showsFacts)
    this.#checkpointed = options.checkpointed
  }

  /** Everything up to this segment stands in rows. */
  get checkpointed(): number {
    return this.#checkpointed
  }

  /** An entry differs from its row from now on. */
  dirty(entry: Entry, wallMs: number): void {
    entry.unsavedAtMs = wallMs
    this.#dirty.push(entry)
  }

  /** Makes the row of an entry that has changed for the last time; false for one that hasn't. */
  pack(entry: Entry): boolean {
    return entry.pack(this.#packer)
  }

  /** An entry may have become idle: looked at after the next checkpoint. */
  mayEvict(entry: Entry): void {
    this.#candidates.push(entry)
  }

  tick(wallMs: number): void {
    const sinceMs = wallMs - this.#startedAtMs
    const due =
      this.#dirty.length > 0 || this.#candidates.length > 0 ? this.#options.intervalMs : HEARTBEAT_MS
    if (sinceMs >= due && this.#running === undefined) void this.now()
  }

  /** Runs one now, after the one that is running. */
  async now(): Promise<void> {
    await this.#running
    this.#startedAtMs = this.#options.clock().wallMs
    this.#running = this.#run().finally(() => {
      this.#running = undefined
    })
    await this.#running
  }

  async #run(): Promise<void> {
    const { handle, rowsMax, failing } = this.#options
    // What changes from here on waits for the next one.
    let left = this.#dirty.length
    do {
      const looked = await this.#write(Math.min(left, rowsMax))
      if (looked === undefined) return
      left -= looked
    } while (left > 0)
    // The checkpoint stands, whether the log behind it could be trimmed or not: the next one trims it.
    await handle.trim(this.#checkpointed).catch((error) => failing(EscrowError.from(error)))
  }

  /**
   * Writes the first ones that changed, as one checkpoint of the store: at most `count`. Returns how many it has looked at,
   * undefined if it isn't done.
   */
  async #write(count: number): Promise<number | undefined> {
    const { store, handle, clock } = this.#options
    const { wallMs, logMs } = clock()
    const { looked, taken, rows, checkpointed, asOfMs } = this.#take(count, wallMs)
    try {
      const outcome = await store.images.checkpoint(handle, { rows, checkpointed, clock: { wallMs, logMs } })
      if (outcome === 'fenced') {
        this.#options.fenced()
        return undefined
      }
    } catch (error) {
      this.#takeBack(taken)
      this.#options.failing(EscrowError.from(error))
      return undefined
    }
    this.#options.failing(undefined)
    this.#options.stored()
    this.#checkpointed = checkpointed
    this.asOfMs = Math.max(this.asOfMs, asOfMs)
    for (const { entry } of taken) {
      if (entry.unsavedFrom === 0 && entry.packed === undefined) this.#options.written(entry)
      this.mayEvict(entry)
    }
    this.#evict()
    return looked
  }

  /** Whether it is stored or not: rows carry their sequence, so writing them again is harmless. */
  #takeBack(taken: readonly Taken[]): void {
    for (const { entry, unsavedFrom, unsavedAtMs } of taken) {
      if (entry.unsavedFrom === 0) this.#dirty.push(entry)
      entry.unsavedFrom = unsavedFrom
      entry.unsavedAtMs = unsavedAtMs
    }
  }

  /**
   * Of the first `count`, or as many as make up a part in bytes, the entries whose last change is durable, as rows. What is
   * still in flight, and what waits for its turn, keeps `checkpointed` below its first change.
   */
  #take(
    count: number,
    wallMs: number,
  ): { looked: number; taken: Taken[]; rows: ImageRow[]; checkpointed: number; asOfMs: number } {
    const durable = this.#options.durable()
    const taken: Taken[] = []
    const rows: ImageRow[] = []
    let looked = 0
    for (let bytes = 0; looked < count && bytes < PART_BYTES_MAX; looked++) {
      const entry = this.#dirty[looked] as Entry
      const { sequence, unsavedFrom, unsavedAtMs } = entry
      if (sequence > durable) {
        this.#dirty.push(entry)
        continue
      }
      const row = this.#row(entry)
      bytes += row.bytes.length
      rows.push(row)
      // Whatever becomes of this write: it may be there.
      entry.isStored = true
      taken.push({ entry, unsavedFrom, unsavedAtMs })
      entry.unsavedFrom = 0
    }
    this.#dirty.splice(0, looked)
    let checkpointed = durable
    let asOfMs = wallMs
    for (const { unsavedFrom, unsavedAtMs } of this.#dirty) {
      checkpointed = Math.min(checkpointed, unsavedFrom - 1)
      // An earlier change of it may be durable and answered, and no row tells of it yet.
      asOfMs = Math.min(asOfMs, unsavedAtMs - 1)
    }
    return { looked, taken, rows, checkpointed: Math.max(checkpointed, this.#checkpointed), asOfMs }
  }

  #row(entry: Entry): ImageRow {
    const { key, sequence, packed, isStored } = entry
    if (packed !== undefined) {
      const { bytes, start, end, status, finishedAtMs, attributes, facts } = packed
      return {
        key,
        sequence,
        status,
        bytes: bytes.subarray(start, end),
        dueLogMs: undefined,
        dueWallMs: undefined,
        finishedAtMs,
        isNew: !isStored,
        attributes,
        facts: () => facts ?? factsOf(entry.image),
      }
    }
    const { image } = entry
    this.#writer.truncate(0)
    encodeTransactionImage(this.#writer, image, { bodies: true })
    const { dueLogMs, dueWallMs } = dueTimes(image)
    return {
      key,
      sequence,
      status: transactionStatusOf(image),
      bytes: this.#writer.copy(),
      dueLogMs,
      dueWallMs,
      finishedAtMs: 0,
      isNew: !isStored,
      attributes: attributesOf(image),
      facts: () => factsOf(image),
    }
  }

  #evict(): void {
    const candidates = this.#candidates
    this.#candidates = []
    for (const entry of candidates) if (entry.isIdle) this.#options.evict(entry)
  }
}

type DueTimes = Pick<ImageRow, 'dueLogMs' | 'dueWallMs'>

/** When an image must be in memory, by either clock. */
function dueTimes(image: TransactionImage): DueTimes {
  return isSaga(image) ? earliest(outstandingOfSaga(image)) : earliest(dueOfMessage(image))
}

interface Due {
  readonly clock: 'log' | 'wall'
  readonly atMs: number
}

function earliest(all: Iterable<Due>): DueTimes {
  let dueLogMs: number | undefined
  let dueWallMs: number | undefined
  for (const { clock, atMs } of all) {
    if (clock === 'log') dueLogMs = Math.min(dueLogMs ?? atMs, atMs)
    else dueWallMs = Math.min(dueWallMs ?? atMs, atMs)
  }
  return { dueLogMs, dueWallMs }
}

/** One that holds its key back must always be in memory: its time is 0. */
function* dueOfMessage(image: MessageImage): Generator<Due> {
  const { head, state } = image
  for (const due of outstanding(image)) {
    const holdsKey =
      due.what === 'hold' ||
      (due.what === 'delivery' && state.phase === 'committed' && isOrdered(head, state, due.index))
    yield holdsKey ? { clock: 'log', atMs: 0 } : due
  }
}
