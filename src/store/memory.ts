/**
 * The store in memory: for tests, the simulation and users' own tests. A `MemoryDisk` is what survives; a store opened on
 * it is one process's hold on it, so that a crash is a new store on the old disk. Nothing here is durable.
 *
 * The hook is called before and after each effect. What it throws, the caller sees: before, the effect didn't happen;
 * after, it did and nobody says so. A promise that it returns delays the call.
 */
import { EscrowError, InvariantViolation } from '../core/errors.ts'
import type { TransactionKey } from '../core/ids.ts'
import { corrupt } from './binary.ts'
import type { Directory, DirectoryEntry } from './directory.ts'
import {
  type Checkpoint,
  compareKeys,
  type DueClock,
  type DueEntry,
  dayOf,
  hasAttributes,
  type ImageQuery,
  type ImageRow,
  type ImageStore,
  type StoredImage,
} from './images.ts'
import type { LogHandle, LogRow, LogStore, Segment } from './log.ts'
import { checkChecksum, isSameSegment, segmentIdentity } from './segment.ts'
import type { Store } from './store.ts'

/** A call of a port, as a hook sees it. */
export interface StoreCall {
  readonly method:
    | 'claim'
    | 'append'
    | 'verify'
    | 'read'
    | 'trim'
    | 'release'
    | 'checkpoint'
    | 'load'
    | 'due'
    | 'query'
    | 'dropFinishedBefore'
    | 'get'
    | 'list'
    | 'compareAndSet'
    | 'remove'
  readonly moment: 'before' | 'after'
}

/** Called around each effect; see above. */
export type StoreHook = (call: StoreCall) => void | Promise<void>

const DAY_MS = 86_400_000

interface MemoryLog {
  row: LogRow
  readonly segments: Map<number, Uint8Array>
}

interface MemoryRow {
  readonly log: number
  readonly row: ImageRow
}

/** What survives a crash of the process that has it open. Its fields are there for tests to look at and to damage. */
export class MemoryDisk {
  readonly storeId: string
  readonly logs: readonly MemoryLog[]
  readonly live = new Map<TransactionKey, MemoryRow>()
  /** By day since the Unix epoch. */
  readonly finished = new Map<number, Map<TransactionKey, MemoryRow>>()
  readonly directory = new Map<string, DirectoryEntry>()
  readonly retainedAfterMs: () => number

  /**
   * `logs`: from 1, default 1. `storeId`: 8 characters of a-z and 0-9. `now`: the wall clock that the retention of 24 hours
   * is counted back from; without it there is no retention.
   */
  constructor(
    options: { readonly logs?: number; readonly storeId?: string; readonly now?: () => number } = {},
  ) {
    this.storeId = options.storeId ?? 'memory00'
    const { now } = options
    this.retainedAfterMs = () => (now === undefined ? Number.POSITIVE_INFINITY : now() - DAY_MS)
    this.logs = Array.from({ length: options.logs ?? 1 }, () => ({
      row: { epoch: 0, head: 0, checkpointed: 0, clock: { wallMs: 0, logMs: 0 } },
      segments: new Map(),
    }))
  }
}

/** Opens a store on a disk. After `close` every call rejects with `storeUnavailable`. */
export function openMemoryStore(disk: MemoryDisk = new MemoryDisk(), hook: StoreHook = () => {}): Store {
  let isOpen = true
  const around = async <T>(method: StoreCall['method'], effect: () => T): Promise<T> => {
    if (!isOpen) throw new EscrowError('storeUnavailable', 'the store is closed')
    await hook({ method, moment: 'before' })
    const result = effect()
    await hook({ method, moment: 'after' })
    return result
  }
  return {
    log: memoryLogs(disk, around),
    images: memoryImages(disk, around),
    directory: memoryDirectory(disk, around),
    close: async () => {
      isOpen = false
    },
  }
}

type Around = <T>(method: StoreCall['method'], effect: () => T) => Promise<T>

function memoryLogs(disk: MemoryDisk, around: Around): LogStore {
  const claim = (index: number): LogHandle => {
    const log = disk.logs[index]
    if (log === undefined) throw new InvariantViolation(`log ${index} of ${disk.logs.length}`)
    log.row = { ...log.row, epoch: log.row.epoch + 1 }
    return new MemoryHandle(index, log, around)
  }
  return { logs: disk.logs.length, storeId: disk.storeId, claim: (log) => around('claim', () => claim(log)) }
}

class MemoryHandle implements LogHandle {
  readonly log: number
  readonly claimed: LogRow
  readonly #log: MemoryLog
  readonly #around: Around
  #isReleased = false

  constructor(index: number, log: MemoryLog, around: Around) {
    this.log = index
    this.claimed = log.row
    this.#log = log
    this.#around = around
  }

  append(segment: Segment): Promise<'done' | 'fenced'> {
    return this.#around('append', () => {
      const identity = segmentIdentity(segment.bytes)
      if (identity.sequence !== segment.sequence)
        throw new InvariantViolation(`segment ${identity.sequence} as ${segment.sequence}`)
      const { row, segments } = this.#log
      if (this.#isOwner() && row.head + 1 === segment.sequence) {
        segments.set(segment.sequence, Uint8Array.from(segment.bytes))
        this.#log.row = { ...row, head: segment.sequence }
        return 'done'
      }
      const found = segments.get(segment.sequence)
      return found !== undefined && isSameSegment(segmentIdentity(found), identity) ? 'done' : 'fenced'
    })
  }

  verify(): Promise<boolean> {
    return this.#around('verify', () => this.#isOwner())
  }

  async *read(after: number): AsyncIterable<Segment> {
    const { row, segments } = await this.#around('read', () => this.#log)
    for (let sequence = after + 1; sequence <= row.head; sequence++) {
      const where = `log ${this.log}, segment ${sequence}`
      const bytes = segments.get(sequence)
      if (bytes === undefined) throw corrupt(`${where}: missing, though the log goes on to ${row.head}`)
      checkChecksum(bytes, where)
      yield { sequence, bytes }
    }
  }

  trim(sequence: number): Promise<void> {
    return this.#around('trim', () => {
      const { row, segments } = this.#log
      for (const stored of segments.keys())
        if (stored <= Math.min(sequence, row.checkpointed)) segments.delete(stored)
    })
  }

  release(): Promise<void> {
    return this.#around('release', () => {
      this.#isReleased = true
    })
  }

  /** The fence of a checkpoint, and its last step. */
  advance(checkpoint: Checkpoint, write: () => void): 'done' | 'fenced' {
    if (!this.#isOwner()) return 'fenced'
    const { row } = this.#log
    if (checkpoint.checkpointed > row.head)
      throw new InvariantViolation(`checkpoint ${checkpoint.checkpointed} above head ${row.head}`)
    write()
    this.#log.row = {
      ...row,
      checkpointed: Math.max(row.checkpointed, checkpoint.checkpointed),
      clock: checkpoint.clock,
    }
    return 'done'
  }

  #isOwner(): boolean {
    return !this.#isReleased && this.#log.row.epoch === this.claimed.epoch
  }
}

function memoryImages(disk: MemoryDisk, around: Around): ImageStore {
  const find = (key: TransactionKey): MemoryRow | undefined => {
    const live = disk.live.get(key)
    if (live !== undefined) return live
    for (const day of disk.finished.values()) if (day.has(key)) return day.get(key)
    return undefined
  }
  const write = (log: number, row: ImageRow): void => {
    const known = find(row.key)
    if (known !== undefined && known.row.sequence > row.sequence) return
    const stored = { log, row: { ...row, bytes: Uint8Array.from(row.bytes) } }
    if (row.finishedAtMs === 0) {
      disk.live.set(row.key, stored)
      return
    }
    disk.live.delete(row.key)
    const day = dayOf(row.finishedAtMs)
    disk.finished.set(day, (disk.finished.get(day) ?? new Map()).set(row.key, stored))
  }
  const checkpoint = (handle: LogHandle, what: Checkpoint): 'done' | 'fenced' => {
    if (!(handle instanceof MemoryHandle)) throw new InvariantViolation('a handle of another store')
    return handle.advance(what, () => {
      for (const row of what.rows) write(handle.log, row)
    })
  }
  return {
    showsFacts: false,
    checkpoint: (handle, what) => around('checkpoint', () => checkpoint(handle, what)),
    load: (keys) => around('load', () => keys.map((key) => stored(find(key)))),
    due: (log, clock, untilMs, after, limit) =>
      around('due', () =>
        dueEntries(disk, log, clock)
          .filter((entry) => entry.dueMs <= untilMs && isAfter(entry, after))
          .slice(0, limit),
      ),
    query: (query) => around('query', () => queryRows(disk, query)),
    dropFinishedBefore: (wallMs) =>
      around('dropFinishedBefore', () => {
        const days = [...disk.finished.keys()].filter(
          (day) => day < dayOf(Math.min(wallMs, disk.retainedAfterMs())),
        )
        for (const day of days) disk.finished.delete(day)
        return days.length
      }),
  }
}

function stored(found: MemoryRow | undefined): StoredImage | undefined {
  if (found === undefined) return undefined
  const { sequence, bytes, finishedAtMs } = found.row
  return { sequence, bytes, finishedAtMs }
}

function dueEntries(disk: MemoryDisk, log: number, clock: DueClock): DueEntry[] {
  const entries: DueEntry[] = []
  for (const { log: of, row } of disk.live.values()) {
    const dueMs = clock === 'log' ? row.dueLogMs : row.dueWallMs
    if (of === log && dueMs !== undefined) entries.push({ key: row.key, dueMs })
  }
  return entries.sort((a, b) => a.dueMs - b.dueMs || compareKeys(a.key, b.key))
}

function isAfter(entry: DueEntry, after: DueEntry | undefined): boolean {
  if (after === undefined) return true
  return entry.dueMs > after.dueMs || (entry.dueMs === after.dueMs && compareKeys(entry.key, after.key) > 0)
}

function queryRows(disk: MemoryDisk, query: ImageQuery): { key: TransactionKey; stored: StoredImage }[] {
  const { statuses, attributes: wanted } = query
  const live = [...disk.live.values()].filter(
    ({ row }) => statuses.length === 0 || statuses.includes(row.status),
  )
  const finished = [...disk.finished.values()].flatMap((day) => [...day.values()])
  return [...live, ...finished.filter(({ row }) => statuses.includes(row.status))]
    .filter(({ row }) => row.key.startsWith(`${query.namespace}/`) && compareKeys(row.key, query.after) > 0)
    .filter(({ row }) => wanted === undefined || hasAttributes(row.attributes, wanted))
    .sort((a, b) => compareKeys(a.row.key, b.row.key))
    .slice(0, query.limit)
    .map((found) => ({ key: found.row.key, stored: stored(found) as StoredImage }))
}

function memoryDirectory(disk: MemoryDisk, around: Around): Directory {
  return {
    get: (name) => around('get', () => disk.directory.get(name)),
    list: (prefix) =>
      around('list', () =>
        [...disk.directory.values()]
          .filter((entry) => entry.name.startsWith(prefix))
          .sort((a, b) => compareKeys(a.name, b.name)),
      ),
    compareAndSet: (name, expected, value) =>
      around('compareAndSet', () => {
        if ((disk.directory.get(name)?.version ?? 0) !== expected) return undefined
        disk.directory.set(name, { name, version: expected + 1, value: Uint8Array.from(value) })
        return expected + 1
      }),
    remove: (name, expected) =>
      around('remove', () => disk.directory.get(name)?.version === expected && disk.directory.delete(name)),
  }
}
