/**
 * The LMDB environment below the embedded store: how it is opened, what a write promises, and what a failed one leaves.
 *
 * What was verified of `lmdb` 3.5.6, by reading its source and under `strace` on Linux:
 *
 * - Its default, `overlappingSync`, makes a commit visible before it is flushed. When that flush fails, the promise
 *   `flushed` never settles, closing waits for it for ever, and the native close flushes once more, by then perhaps
 *   without the pages that the kernel dropped, and believes the result. So it is off here. Then a write's promise
 *   resolves only after `fdatasync` of the pages and an `O_DSYNC` write of the meta page, from the first commit on
 *   (traced: pwrite/writev, fdatasync, pwrite on the O_DSYNC descriptor, only then the promise), and when `fdatasync`
 *   fails (injected EIO) the meta page isn't written: the commit never was.
 * - `transactionSync` is as durable, but waits for the disk on the main thread; `transaction` (with a callback) hung. Here
 *   all writes are conditional batches, which a thread of the pool carries out, B-tree work included.
 * - With `eventTurnBatching` a transaction stays open until the event-loop turn ends, and opening a database in between
 *   commits half of it. It is off: a batch is complete when the call that queues it returns.
 * - The values of a batch are read by their address until its promise settles: nobody may change their bytes before.
 * - It prints failed commits to standard error by itself.
 * - A commit that finds no room fails whole, and the next one may succeed; LMDB says ENOSPC, or EIO when a part could be
 *   written, which is what a failed flush says too: how much room there is tells them apart. When it was the meta page
 *   that had none, LMDB refuses everything from then on, and one more write would wait for ever.
 *
 * | state  | because                            | calls                                                            |
 * |--------|------------------------------------|------------------------------------------------------------------|
 * | open   |                                    | are served; `storeUnavailable` for a write that found no room    |
 * | broken | a write failed in any other way    | reject with `storeCorrupt`, `details.reopen` being `true`        |
 * | closed | `close`                            | reject with `storeUnavailable`                                   |
 */
import { statfsSync } from 'node:fs'
import { type Database, open, type RootDatabase } from 'lmdb'
import { EscrowError } from '../../core/errors.ts'

/** A table: binary keys, in the order of their bytes, and binary values. */
export type Table = Database<Uint8Array, Uint8Array>

/** EFBIG, ENOSPC, EDQUOT (Linux, macOS), MDB_MAP_FULL: there is no room now, and there may be later. */
const NO_ROOM = new Set([27, 28, 122, 69, -30792])
const EIO = 5
/** With less room than this, a write that was cut short was cut short for want of room. */
const ROOM_BYTES_MIN = 16 << 20
const ENCODING = { encoding: 'binary', keyEncoding: 'binary' } as const
const PROBE = Buffer.from('probe')

/** How an environment is opened. */
export interface EnvironmentOptions {
  readonly tablesMax: number
  /**
   * How many free pages it keeps in mind. A value beyond half a page wants pages in a row, for which all of them are
   * searched: with 50,000 scattered ones a write of 100 kB took 50 ms instead of 0.5. With 1,000 it seldom found any, and the
   * file of a churning store grew without end; with 15,000 it settled.
   */
  readonly freePagesMax: number
}

/** An open LMDB environment. */
export class Environment {
  readonly #root: RootDatabase<Uint8Array, Uint8Array>
  readonly #path: string
  #refusal: EscrowError | undefined

  /** Opens or makes the environment in a folder that exists. Throws what LMDB throws. */
  constructor(path: string, options: EnvironmentOptions) {
    this.#path = path
    this.#root = open<Uint8Array, Uint8Array>({
      ...ENCODING,
      ...untyped(options),
      path,
      maxDbs: options.tablesMax,
      noSubdir: false,
      overlappingSync: false,
      eventTurnBatching: false,
    })
  }

  /**
   * Opens or makes a table, which waits for the disk if it is new. `versions`: each row has a number beside it that a write
   * can depend on.
   */
  table(name: string, options: { readonly versions?: boolean } = {}): Table {
    this.assertOpen()
    try {
      return this.#openTable(name, options.versions === true)
    } catch (error) {
      throw this.#failure(error as Error)
    }
  }

  #openTable(name: string, useVersions: boolean): Table {
    return this.#root.openDB<Uint8Array, Uint8Array>({
      ...ENCODING,
      name,
      useVersions,
    })
  }

  /** Throws the reason why nothing is served any more. */
  assertOpen(): void {
    if (this.#refusal !== undefined) throw this.#refusal
  }

  /**
   * Queues a batch and waits until it is durable. `queue` must do nothing but put and remove: what it throws leaves half a
   * batch behind, and breaks the environment. Returns what the batch's promise says: whether its condition held.
   */
  async write(queue: () => PromiseLike<boolean>): Promise<boolean> {
    this.assertOpen()
    try {
      return await queue()
    } catch (error) {
      throw this.#failure(await commitErrorOf(error))
    }
  }

  /** A batch without a condition. */
  writeAlways(queue: () => void): Promise<boolean> {
    return this.write(() => this.#root.batch(queue))
  }

  /** Makes the reads that follow see everything that was committed. */
  refresh(): void {
    this.assertOpen()
    this.#root.resetReadTxn()
  }

  /** Breaks it, for a reason that lies outside LMDB. */
  break(reason: string, cause?: unknown): EscrowError {
    this.#refusal ??= new EscrowError(
      'storeCorrupt',
      `${reason}; reopen the store, which recovers what is durable`,
      {
        details: { reopen: 'true' },
        cause,
      },
    )
    return this.#refusal
  }

  async close(): Promise<void> {
    const isFirst = this.#refusal?.code !== 'storeUnavailable'
    this.#refusal = new EscrowError('storeUnavailable', 'the store is closed')
    if (isFirst) await this.#root.close()
  }

  #failure(cause: Error & { readonly code?: number }): EscrowError {
    const hasNoRoom =
      NO_ROOM.has(cause.code ?? 0) || (cause.code === EIO && this.#roomBytes() < ROOM_BYTES_MIN)
    if (hasNoRoom && this.#canRead()) {
      return new EscrowError('storeUnavailable', `the store has no room: ${cause.message}`, { cause })
    }
    return this.break(`a write failed (${cause.message})`, cause)
  }

  #roomBytes(): number {
    try {
      const { bavail, bsize } = statfsSync(this.#path)
      return bavail * bsize
    } catch {
      return Number.POSITIVE_INFINITY
    }
  }

  #canRead(): boolean {
    try {
      this.#root.resetReadTxn()
      this.#root.get(PROBE)
      return true
    } catch {
      return false
    }
  }
}

/** What `lmdb` takes and its types don't know: files are for their owner only. */
function untyped({ freePagesMax }: EnvironmentOptions): object {
  return {
    permissionsMode: 0o600,
    maxFreeSpaceToLoad: freePagesMax,
    maxFreeSpaceToRetain: freePagesMax * 1.5,
  }
}

/** The error behind "Commit failed": a promise on it, which nobody else takes and which would end the process. */
async function commitErrorOf(error: unknown): Promise<Error & { code?: number }> {
  const { commitError } = error as { commitError?: Promise<never> }
  try {
    await commitError
    return error as Error
  } catch (cause) {
    return cause as Error & { code?: number }
  }
}
