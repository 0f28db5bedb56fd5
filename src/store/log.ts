/**
 * The port behind which a log is durable. A log has one row (epoch, head, checkpointed, clock) and its segments.
 *
 * | call   | ends as                                                                                       |
 * |--------|-----------------------------------------------------------------------------------------------|
 * | claim  | a handle under a higher epoch, committed before anything is read                              |
 * | append | `done`: durable · `fenced`: another writer owns the log · rejected: unknown, append it again   |
 * | verify | true if this handle still owned the log at some moment after the call · false: fenced          |
 */
/** A batch of records as one durable unit. The bytes carry format, key id, writer's nonce, sequence, times and checksum: see `segment.ts`. */
export interface Segment {
  /** head + 1 at the time of the append. */
  readonly sequence: number
  readonly bytes: Uint8Array
}

/** The log's clock as it was last stored: log time stands still while nobody runs the log. */
export interface LogClock {
  readonly wallMs: number
  readonly logMs: number
}

/** What a log's row says. */
export interface LogRow {
  readonly epoch: number
  readonly head: number
  readonly checkpointed: number
  /** As of the last checkpoint; segments carry later ones. */
  readonly clock: LogClock
}

/** One writer's hold on one log, until it is fenced or released. */
export interface LogHandle {
  readonly log: number
  /** The row as it was right after the claim. */
  readonly claimed: LogRow
  /**
   * Appends a segment where epoch and head are still this handle's. `done` means durable. Idempotent for the same bytes:
   * after a rejection, whose outcome is unknown, append the same bytes again. Rejects with `storeUnavailable` (try again)
   * or `storeCorrupt` (stop: reopen the store and recover).
   */
  append(segment: Segment): Promise<'done' | 'fenced'>
  /** Whether this handle still owns the log, by a look at the store that begins after the call. */
  verify(): Promise<boolean>
  /** The segments after `sequence`, contiguous; rejects with `storeCorrupt` on a gap or a bad checksum. */
  read(after: number): AsyncIterable<Segment>
  /** Forgets segments up to `sequence`, never beyond the stored `checkpointed`. */
  trim(sequence: number): Promise<void>
  /** Gives the hold up, in good order. */
  release(): Promise<void>
}

/** A store of logs. */
export interface LogStore {
  /** How many logs there are: fixed when the store is made. */
  readonly logs: number
  /** Unique to this store, for ever: part of every execution id. 8 characters of a-z and 0-9. */
  readonly storeId: string
  /** Takes a log over: raises its epoch, durably, and only then reads. A handle of an earlier claim is fenced from here on. */
  claim(log: number): Promise<LogHandle>
}
