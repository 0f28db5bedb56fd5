/**
 * The logs of the embedded store, in an environment of their own: an append never waits for a checkpoint's write, and finds
 * free pages in a row, because only segments come and go here.
 *
 * A log's row is three rows of the table of fences: the epoch, which LMDB checks in the write transaction of whatever is
 * written under it; the head, which append advances; and what is checkpointed. The images have the epoch too, in their
 * environment; claim raises it here first, which decides who owns the log, and there before it reads anything.
 *
 * | append finds                       | then                                                        |
 * |------------------------------------|-------------------------------------------------------------|
 * | its epoch, and the head before it  | head and segment are written: `done`                        |
 * | its own segment (nonce, checksum)  | an earlier try got through: `done`                          |
 * | anything else, or nothing (trimmed) | `fenced`                                                   |
 */
import { EscrowError, InvariantViolation } from '../../core/errors.ts'
import { corrupt } from '../binary.ts'
import type { LogClock, LogHandle, LogRow, LogStore, Segment } from '../log.ts'
import { checkChecksum, isSameSegment, type SegmentIdentity, segmentIdentity } from '../segment.ts'
import type { Environment, Table } from './environment.ts'
import { fenceKey, numbersValue, segmentKey, segmentSequence, valueNumbers } from './row.ts'

/** Segments forgotten in one write, so that an append waits for little. */
const SEGMENTS_PER_TRIM = 64
const CLAIM_ATTEMPTS_MAX = 100

/** The tables that logs are kept in. */
export interface LogTables {
  readonly fences: Table
  readonly segments: Table
}

/** Opens the tables of logs. */
export function logTables(environment: Environment): LogTables {
  return { fences: environment.table('fences', { versions: true }), segments: environment.table('segments') }
}

/** Queues the rows of new logs; for inside a write. */
export function putNewLogs({ fences }: LogTables, logs: number): void {
  for (let log = 0; log < logs; log++) {
    fences.put(fenceKey('epoch', log), numbersValue(0), 0)
    fences.put(fenceKey('head', log), numbersValue(0), 0)
    fences.put(fenceKey('checkpointed', log), numbersValue(0, 0, 0), 0)
  }
}

/** Whether a log was ever claimed: before that, nothing of it can stand anywhere else. */
export function wasClaimed(environment: Environment, { fences }: LogTables, log: number): boolean {
  return readRow(environment, fences, log).epoch > 0
}

/** What the logs of the embedded store need. */
export interface EmbeddedLogsOptions {
  readonly environment: Environment
  readonly tables: LogTables
  readonly logs: number
  readonly storeId: string
  /** Tells the images who owns a log now; durable when it resolves. */
  readonly fenceImages: (log: number, epoch: number) => Promise<void>
}

/** The logs of the embedded store. */
export class EmbeddedLogs implements LogStore {
  readonly logs: number
  readonly storeId: string
  readonly #options: EmbeddedLogsOptions

  constructor(options: EmbeddedLogsOptions) {
    this.#options = options
    this.logs = options.logs
    this.storeId = options.storeId
  }

  async claim(log: number): Promise<LogHandle> {
    if (!Number.isInteger(log) || log < 0 || log >= this.logs)
      throw new InvariantViolation(`log ${log} of ${this.logs}`)
    const { environment, tables, fenceImages } = this.#options
    const { fences } = tables
    const key = fenceKey('epoch', log)
    for (let attempt = 1; attempt <= CLAIM_ATTEMPTS_MAX; attempt++) {
      const epoch = readRow(environment, fences, log).epoch + 1
      const raised = numbersValue(epoch)
      const put = (): void => void fences.put(key, raised, epoch)
      if (!(await environment.write(() => fences.ifVersion(key, epoch - 1, put)))) continue
      await fenceImages(log, epoch)
      return new EmbeddedHandle(environment, tables, log, { ...readRow(environment, fences, log), epoch })
    }
    throw new EscrowError(
      'storeUnavailable',
      `log ${log} was claimed by others ${CLAIM_ATTEMPTS_MAX} times in a row`,
    )
  }
}

/** A hold on a log of the embedded store. */
export class EmbeddedHandle implements LogHandle {
  readonly log: number
  readonly claimed: LogRow
  readonly #environment: Environment
  readonly #tables: LogTables
  readonly #headKey: Uint8Array
  #isReleased = false

  constructor(environment: Environment, tables: LogTables, log: number, claimed: LogRow) {
    this.#environment = environment
    this.#tables = tables
    this.log = log
    this.claimed = claimed
    this.#headKey = fenceKey('head', log)
  }

  async append(segment: Segment): Promise<'done' | 'fenced'> {
    const { sequence, bytes } = segment
    const identity = segmentIdentity(bytes)
    if (identity.sequence !== sequence)
      throw new InvariantViolation(`segment ${identity.sequence} appended as ${sequence}`)
    this.#environment.assertOpen()
    if (this.#isReleased) return 'fenced'
    const { fences, segments } = this.#tables
    const key = segmentKey(this.log, sequence)
    const head = numbersValue(sequence)
    const isWritten = await writeUnderEpoch(this.#environment, fences, this, () =>
      fences.ifVersion(this.#headKey, sequence - 1, () => {
        fences.put(this.#headKey, head, sequence)
        segments.put(key, bytes)
      }),
    )
    return isWritten || this.#isThere(key, identity) ? 'done' : 'fenced'
  }

  #isThere(key: Uint8Array, identity: SegmentIdentity): boolean {
    this.#environment.refresh()
    const found = this.#tables.segments.getBinary(key)
    return (
      found !== undefined && isSameSegment(segmentIdentity(found, this.#where(identity.sequence)), identity)
    )
  }

  async verify(): Promise<boolean> {
    if (this.#isReleased) return false
    return readRow(this.#environment, this.#tables.fences, this.log).epoch === this.claimed.epoch
  }

  async *read(after: number): AsyncIterable<Segment> {
    const { head } = readRow(this.#environment, this.#tables.fences, this.log)
    for (let sequence = after + 1; sequence <= head; sequence++) {
      this.#environment.assertOpen()
      const where = this.#where(sequence)
      const bytes = this.#tables.segments.getBinary(segmentKey(this.log, sequence))
      if (bytes === undefined) throw corrupt(`${where}: missing, though the log goes on to ${head}`)
      checkChecksum(bytes, where)
      const found = segmentIdentity(bytes, where)
      if (found.sequence !== sequence) throw corrupt(`${where}: says that it is ${found.sequence}`)
      yield { sequence, bytes }
    }
  }

  async trim(sequence: number): Promise<void> {
    const { checkpointed } = readRow(this.#environment, this.#tables.fences, this.log)
    const upTo = Math.min(sequence, checkpointed)
    const { segments } = this.#tables
    const range = {
      start: segmentKey(this.log, 0),
      end: segmentKey(this.log, upTo + 1),
      limit: SEGMENTS_PER_TRIM,
    }
    for (;;) {
      this.#environment.refresh()
      const keys = Array.from(segments.getKeys(range))
      if (keys.length === 0) return
      await this.#environment.writeAlways(() => {
        for (const key of keys) segments.remove(key)
      })
      // The next look starts behind what was removed, so that a write that got lost can't keep it going.
      range.start = segmentKey(this.log, segmentSequence(keys.at(-1) as Uint8Array) + 1)
    }
  }

  async release(): Promise<void> {
    this.#environment.assertOpen()
    this.#isReleased = true
  }

  /** Whether the handle was given up; the store knows nothing of that. */
  get isReleased(): boolean {
    return this.#isReleased
  }

  /** The last step of a checkpoint: false if the log has another owner by now. */
  async advance(checkpointed: number, clock: LogClock): Promise<boolean> {
    const { fences } = this.#tables
    const row = readRow(this.#environment, fences, this.log)
    if (this.#isReleased) return false
    if (checkpointed > row.head)
      throw new InvariantViolation(`checkpoint ${checkpointed} above the head ${row.head} of log ${this.log}`)
    const key = fenceKey('checkpointed', this.log)
    const value = numbersValue(Math.max(checkpointed, row.checkpointed), clock.wallMs, clock.logMs)
    return await writeUnderEpoch(this.#environment, fences, this, () => void fences.put(key, value, 0))
  }

  #where(sequence: number): string {
    return `log ${this.log}, segment ${sequence}`
  }
}

/**
 * Writes what `queue` queues, all or nothing, if the epoch in this environment's fences is the handle's, and the condition
 * that `queue` may return holds.
 */
export async function writeUnderEpoch(
  environment: Environment,
  fences: Table,
  handle: EmbeddedHandle,
  queue: () => PromiseLike<boolean> | undefined,
): Promise<boolean> {
  const key = fenceKey('epoch', handle.log)
  return await environment.write(async () => {
    let inner: PromiseLike<boolean> | undefined
    const outer = fences.ifVersion(key, handle.claimed.epoch, () => {
      inner = queue()
    })
    const [isMine, holds] = await Promise.all([outer, inner])
    return isMine && holds !== false
  })
}

function readRow(environment: Environment, fences: Table, log: number): LogRow {
  environment.refresh()
  const what = (which: string): string => `log ${log}, its ${which}`
  const [epoch] = valueNumbers(fences.get(fenceKey('epoch', log)), 1, what('epoch')) as [number]
  const [head] = valueNumbers(fences.get(fenceKey('head', log)), 1, what('head')) as [number]
  const stored = valueNumbers(fences.get(fenceKey('checkpointed', log)), 3, what('checkpoint'))
  const [checkpointed, wallMs, logMs] = stored as [number, number, number]
  return { epoch, head, checkpointed, clock: { wallMs, logMs } }
}
