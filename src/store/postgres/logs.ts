/**
 * The logs of the PostgreSQL store. What a log's row fences, by statement:
 *
 * | statement  | where                        | no row                                                      |
 * |------------|------------------------------|-------------------------------------------------------------|
 * | claim      | the log                      | -                                                           |
 * | append     | my epoch, and the head below | my segment (nonce, checksum) stands there: done; else fenced |
 * | checkpoint | my epoch                     | fenced                                                      |
 *
 * An append is one statement that commits by itself; a second one of the same bytes waits for the first on the log's row,
 * wherever that is stuck, and then finds what became of it. A statement is never sent twice by anything but its caller.
 */
import { EscrowError, InvariantViolation } from '../../core/errors.ts'
import { ArrayBuilder, ELEMENT } from '../../core/postgres-arrays.ts'
import type { Row } from '../../core/postgres-session.ts'
import { corrupt } from '../binary.ts'
import type { LogClock, LogHandle, LogRow, LogStore, Segment } from '../log.ts'
import { checkChecksum, isSameSegment, type SegmentIdentity, segmentIdentity } from '../segment.ts'
import { Coalescer } from './coalescer.ts'
import { Connections } from './connections.ts'
import { isRefusal } from './failures.ts'
import type { StoreIdentity } from './migrate.ts'
import { withinBytes } from './rows.ts'
import type { Session, SessionOptions } from './session.ts'

/** Segments of one look at a log, at most. */
const SEGMENTS_PER_READ = 16
/** Segments forgotten by one statement. */
const SEGMENTS_PER_TRIM = 256
/** How long a claim waits for whoever has the log's row, as a part of the lease, before it ends them. */
const PATIENCE_SHARE = 0.1

const CLAIM = {
  name: 'claim',
  text: `update logs set epoch = epoch + 1 where log = $1
    returning epoch, head, checkpointed, wall_ms, log_ms`,
}
const APPEND = {
  name: 'append',
  text: `with mine as (
      update logs set head = $3 where log = $1 and epoch = $2 and head = $3 - 1 returning log, head)
    insert into segments (log, sequence, bytes) select log, head, $4::bytea from mine`,
}
/**
 * The appends of several logs as one statement and one commit. A row that somebody else has locked is passed over, so that no
 * log waits for another's; and what is refused for one of them is refused for all. Whoever isn't answered appends alone.
 */
const APPEND_TOGETHER = {
  name: 'append-together',
  text: `with asked as (
      select * from unnest($1::int4[], $2::int8[], $3::int8[], $4::bytea[]) as a (log, epoch, sequence, bytes)),
    mine as (
      select l.log from logs l join asked a on l.log = a.log and l.epoch = a.epoch and l.head = a.sequence - 1
      for update of l skip locked),
    advanced as (
      update logs l set head = a.sequence from asked a join mine m on m.log = a.log where l.log = a.log returning l.log)
    insert into segments (log, sequence, bytes)
    select a.log, a.sequence, a.bytes from asked a join advanced d on d.log = a.log returning log`,
}
/** Bytes of the segments of one such statement; one alone may have more. */
const TOGETHER_BYTES_MAX = 8 << 20
const FIND = { name: 'find', text: 'select bytes from segments where log = $1 and sequence = $2' }
const VERIFY = { name: 'verify', text: 'select epoch, pg_is_in_recovery() from logs where log = $1' }
/** One statement, so one snapshot: a gap in it is a loss, unless the log has another owner who trims. */
const READ = {
  name: 'read',
  text: `select l.epoch, l.head, s.sequence, s.bytes from logs l
    left join lateral (select sequence, ${withinBytes('bytes', 'sequence')} as bytes
      from (select sequence, bytes from segments
        where log = l.log and sequence > $2 order by sequence limit ${SEGMENTS_PER_READ}) s) s on true
    where l.log = $1 order by s.sequence`,
}
const FIRST = { name: 'first', text: 'select min(sequence) from segments where log = $1' }
const TRIM = {
  name: 'trim',
  text: 'delete from segments where log = $1 and sequence > $2 and sequence <= $3',
}
/**
 * Whoever has the row. Not who waits for it, or claims would end each other; nor who has the whole table, such as a migration.
 */
const END_BLOCKERS = `select pg_terminate_backend(pid) from pg_stat_activity
  where pid = any(pg_blocking_pids($1::int4)) and wait_event_type is distinct from 'Lock'
    and exists (select from pg_locks where pid = $1 and not granted and locktype in ('transactionid', 'tuple'))`

/** What the logs need. */
export interface PostgresLogsOptions {
  readonly identity: StoreIdentity
  readonly connection: SessionOptions
  /** For claims, which may wait for whoever has the row. */
  readonly claims: Connections
  /** For what must not wait for claims. */
  readonly control: Connections
  /** For reading and trimming, beside the appends. */
  readonly checkpoints: Connections
}

/** The logs of the PostgreSQL store. */
export class PostgresLogs implements LogStore {
  readonly logs: number
  readonly storeId: string
  readonly #options: PostgresLogsOptions
  /** For what a log appends alone, because its row is locked or a statement of several was refused. */
  readonly #lanes = new Map<number, Connections>()
  readonly #shared: Connections
  readonly #appends: Coalescer<Append, boolean>

  constructor(options: PostgresLogsOptions) {
    this.#options = options
    this.#shared = new Connections(options.connection, 1)
    this.#appends = new Coalescer({
      run: (appends) => this.#append(appends),
      weigh: ({ segment }) => segment.bytes.length,
      weightMax: TOGETHER_BYTES_MAX,
    })
    this.logs = options.identity.logs
    this.storeId = options.identity.storeId
  }

  async claim(log: number): Promise<LogHandle> {
    if (!Number.isInteger(log) || log < 0 || log >= this.logs)
      throw new InvariantViolation(`log ${log} of ${this.logs}`)
    const { claims, checkpoints } = this.#options
    const doing = `claiming log ${log}`
    const row = await claims.use(doing, async (session) => {
      const stopEnding = this.#endBlockers(session.pid)
      try {
        return (await session.run(CLAIM, [log])).rows[0]
      } finally {
        stopEnding()
      }
    })
    if (row === undefined) throw corrupt(`log ${log}: its row is missing`)
    return new PostgresHandle({
      log,
      claimed: logRow(row),
      together: (append) => this.#appends.ask(append),
      lane: this.#lane(log),
      aside: checkpoints,
    })
  }

  /** For each, whether it is done. */
  async #append(appends: readonly Append[]): Promise<readonly boolean[]> {
    const logs = new ArrayBuilder(ELEMENT.int4)
    const epochs = new ArrayBuilder(ELEMENT.int8)
    const sequences = new ArrayBuilder(ELEMENT.int8)
    const bytes = new ArrayBuilder(
      ELEMENT.bytea,
      appends.reduce((sum, { segment }) => sum + segment.bytes.length + 4, 32),
    )
    for (const { log, epoch, segment } of appends) {
      logs.int4(log)
      epochs.int8(epoch)
      sequences.int8(segment.sequence)
      bytes.bytea(segment.bytes)
    }
    const doing = `appending to log ${appends.map(({ log }) => log).join(', ')}`
    const values = [logs, epochs, sequences, bytes].map((array) => array.finish())
    const rows = await this.#shared.use(doing, async (session) => {
      try {
        return (await session.run(APPEND_TOGETHER, values)).rows
      } catch (error) {
        if (isRefusal(error)) return []
        throw error
      }
    })
    const done = new Set(rows.map(([log]) => log as number))
    return appends.map(({ log }) => done.has(log))
  }

  async close(): Promise<void> {
    await Promise.all([this.#shared, ...this.#lanes.values()].map((lane) => lane.close()))
  }

  #lane(log: number): Connections {
    const known = this.#lanes.get(log)
    if (known !== undefined) return known
    const lane = new Connections(this.#options.connection, 1)
    this.#lanes.set(log, lane)
    return lane
  }

  /** Ends, again and again, the sessions that block this one; returns what stops that. */
  #endBlockers(pid: number): () => void {
    const { control, connection } = this.#options
    const { setTimer, leaseMs } = connection
    let cancel = (): void => {}
    let isOver = false
    const end = async (): Promise<void> => {
      // A role that may not end others leaves it to the time-outs that every session of the store has.
      await control
        .use('ending who blocks a claim', (session) => session.query(END_BLOCKERS, [pid]))
        .catch(() => {})
      plan()
    }
    const plan = (): void => {
      if (!isOver) cancel = setTimer(() => void end(), leaseMs * PATIENCE_SHARE)
    }
    plan()
    return () => {
      isOver = true
      cancel()
    }
  }
}

interface Append {
  readonly log: number
  readonly epoch: number
  readonly segment: Segment
}

interface HandleOptions {
  readonly log: number
  readonly claimed: LogRow
  /** Appends with what other logs append at the same time; false: not done, for whatever reason. */
  readonly together: (append: Append) => Promise<boolean>
  readonly lane: Connections
  readonly aside: Connections
}

/** A hold on a log of the PostgreSQL store. */
export class PostgresHandle implements LogHandle {
  readonly log: number
  readonly claimed: LogRow
  readonly #together: HandleOptions['together']
  readonly #lane: Connections
  readonly #aside: Connections
  #isReleased = false
  /** What didn't go with the others' appends stays away from them until it is through, or it would stop them each time. */
  #isAlone = false
  /** As far as this handle knows; the stored one may be higher. */
  #checkpointed: number
  /** Every segment up to this one is gone. */
  #trimmed: number | undefined

  constructor({ log, claimed, together, lane, aside }: HandleOptions) {
    this.log = log
    this.claimed = claimed
    this.#together = together
    this.#lane = lane
    this.#aside = aside
    this.#checkpointed = claimed.checkpointed
  }

  async append(segment: Segment): Promise<'done' | 'fenced'> {
    const { sequence, bytes } = segment
    const identity = segmentIdentity(bytes)
    if (identity.sequence !== sequence)
      throw new InvariantViolation(`segment ${identity.sequence} appended as ${sequence}`)
    if (this.#isReleased) return 'fenced'
    const append = { log: this.log, epoch: this.claimed.epoch, segment }
    if (!this.#isAlone && (await this.#together(append))) return 'done'
    this.#isAlone = true
    const outcome = await this.#appendAlone(append, identity)
    this.#isAlone = false
    return outcome
  }

  #appendAlone({ log, epoch, segment }: Append, identity: SegmentIdentity): Promise<'done' | 'fenced'> {
    const { sequence, bytes } = segment
    return this.#lane.use(`appending to log ${log}`, async (session) => {
      const { rowCount } = await session.run(APPEND, [log, epoch, sequence, bytes])
      if (rowCount === 1) return 'done'
      const [found] = await session.query(FIND, [log, sequence])
      if (found === undefined) return 'fenced'
      const other = segmentIdentity(found[0] as Uint8Array, this.#where(sequence))
      return isSameSegment(other, identity) ? 'done' : 'fenced'
    })
  }

  async verify(): Promise<boolean> {
    if (this.#isReleased) return false
    const rows = await this.#lane.use(`verifying log ${this.log}`, (session) =>
      session.query(VERIFY, [this.log]),
    )
    const [epoch, isStandby] = rows[0] ?? []
    if (isStandby !== false)
      throw new EscrowError(
        'storeUnavailable',
        `verifying log ${this.log}: the server is a standby, or its row is gone`,
      )
    return epoch === this.claimed.epoch
  }

  async *read(after: number): AsyncIterable<Segment> {
    let head: number | undefined
    for (let sequence = after; head === undefined || sequence < head; ) {
      const rows = await this.#aside.use(`reading log ${this.log}`, (session) =>
        session.query(READ, [this.log, sequence]),
      )
      const isMine = rows[0]?.[0] === this.claimed.epoch
      head ??= Number(rows[0]?.[1])
      for (const [, , found, stored] of rows) {
        if (sequence === head) return
        if (found !== sequence + 1) throw this.#gap(sequence + 1, head, isMine)
        if (stored === null) break
        sequence += 1
        yield this.#segment(sequence, stored as Uint8Array)
      }
    }
  }

  #gap(sequence: number, head: number, isMine: boolean): EscrowError {
    if (isMine) return corrupt(`${this.#where(sequence)}: missing, though the log goes on to ${head}`)
    return new EscrowError('notOwner', `log ${this.log} was taken over by another writer while it was read`)
  }

  #segment(sequence: number, bytes: Uint8Array): Segment {
    const where = this.#where(sequence)
    checkChecksum(bytes, where)
    const found = segmentIdentity(bytes, where)
    if (found.sequence !== sequence) throw corrupt(`${where}: says that it is ${found.sequence}`)
    return { sequence, bytes }
  }

  async trim(sequence: number): Promise<void> {
    // What is stored is never lowered: what this handle knows of it is safe to trim by.
    const upTo = Math.min(sequence, this.#checkpointed)
    await this.#aside.use(`trimming log ${this.log}`, async (session) => {
      this.#trimmed ??= await this.#beforeFirst(session)
      while (this.#trimmed < upTo) {
        const to: number = Math.min(this.#trimmed + SEGMENTS_PER_TRIM, upTo)
        await session.query(TRIM, [this.log, this.#trimmed, to])
        this.#trimmed = to
      }
    })
  }

  async #beforeFirst(session: Session): Promise<number> {
    const [row] = await session.query(FIRST, [this.log])
    const first = row?.[0]
    return typeof first === 'number' ? first - 1 : this.claimed.checkpointed
  }

  async release(): Promise<void> {
    this.#isReleased = true
    await this.#lane.rest()
  }

  /** Whether the handle was given up; the store knows nothing of that. */
  get isReleased(): boolean {
    return this.#isReleased
  }

  /** A checkpoint is durable. */
  checkpointDone(checkpointed: number): void {
    this.#checkpointed = Math.max(this.#checkpointed, checkpointed)
  }

  #where(sequence: number): string {
    return `log ${this.log}, segment ${sequence}`
  }
}

function logRow([epoch, head, checkpointed, wallMs, logMs]: Row): LogRow {
  const clock = { wallMs, logMs } as LogClock
  return { epoch: epoch as number, head: head as number, checkpointed: checkpointed as number, clock }
}
