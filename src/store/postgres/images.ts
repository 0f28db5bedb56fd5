/**
 * The images of the PostgreSQL store. A checkpoint is one transaction:
 *
 * | step                                              | why here                                                      |
 * |---------------------------------------------------|---------------------------------------------------------------|
 * | the partitions of its days are made, before it    | making one takes locks that a checkpoint shouldn't hold       |
 * | the checkpoints of a log take turns, by a lock    | an earlier try, or a zombie's, must have ended to be seen      |
 * | rows are written in the order of their keys       | never lowered: each has the sequence that it stands for       |
 * | last, the log's row where the epoch is mine       | appends wait for that row only while COMMIT is on its way     |
 * | COMMIT, believed when it is answered with COMMIT  | after an error the server answers it with ROLLBACK            |
 *
 * Each statement is sent when the one before was answered. So a try that was given up ends with the one that was under way:
 * by its COMMIT if that was it, else by the loss of its connection. Either way the next one's turn comes after it.
 */
import { EscrowError, InvariantViolation } from '../../core/errors.ts'
import type { TransactionKey } from '../../core/ids.ts'
import { ArrayBuilder, ELEMENT, textArray } from '../../core/postgres-arrays.ts'
import type { Statement } from '../../core/postgres-session.ts'
import {
  type Checkpoint,
  compareKeys,
  type DueClock,
  type DueEntry,
  dayOf,
  type ImageQuery,
  type ImageRow,
  type ImageStore,
  type StoredImage,
} from '../images.ts'
import type { LogHandle } from '../log.ts'
import type { Connections } from './connections.ts'
import { type Days, dayTable } from './days.ts'
import { isTableMissing } from './failures.ts'
import { PostgresHandle } from './logs.ts'
import { queryImages } from './query.ts'
import { FINISHED_SHAPE, LIVE_SHAPE, withinBytes } from './rows.ts'
import type { Session } from './session.ts'

/** Rows of one statement of a checkpoint, at most. */
const ROWS_PER_STATEMENT = 1_000
/** Bytes of images of one statement; one row may be larger. */
const BYTES_PER_STATEMENT = 4 << 20

const TURN = {
  name: 'turn',
  text: "select pg_advisory_xact_lock('logs'::regclass::oid::int8::bit(32)::int4, $1::int4)",
}
const ADVANCE = {
  name: 'advance',
  text: `update logs set checkpointed = greatest(checkpointed, $3), wall_ms = $4, log_ms = $5
    where log = $1 and epoch = $2 and head >= $3`,
}
const STANDING = { name: 'standing', text: 'select epoch, head from logs where log = $1' }

/** A scalar subquery a row: a join would be planned by guesses about tables of any size. */
const WRITE_LIVE: Statement = {
  name: 'write-live',
  text: `insert into live as t (${LIVE_SHAPE.columns}) select ${LIVE_SHAPE.values} from ${LIVE_SHAPE.source}
    where r.is_new or coalesce((select true from live l where l.key = r.key),
      (select f.sequence <= r.sequence from finished f where f.key = r.key limit 1), true)
    on conflict (key) do update set ${LIVE_SHAPE.assignments} where t.sequence <= excluded.sequence`,
}
const writeFinished = (day: number): Statement => ({
  name: `write-finished-${day}`,
  text: `insert into ${dayTable(day)} as t (${FINISHED_SHAPE.columns})
    select ${FINISHED_SHAPE.values} from ${FINISHED_SHAPE.source}
    where r.is_new or coalesce((select l.sequence <= r.sequence from live l where l.key = r.key), true)
    on conflict (key) do update set ${FINISHED_SHAPE.assignments} where t.sequence <= excluded.sequence`,
})
const LEAVE = {
  name: 'leave',
  text: `delete from live l using unnest($1::text[], $2::int8[]) as r (key, sequence)
    where l.key = r.key and l.sequence <= r.sequence`,
}
const LOAD = {
  name: 'load',
  text: `select k.at, r.sequence, ${withinBytes('r.image', 'k.at')}, r.finished_ms
    from unnest($1::text[]) with ordinality as k (key, at), lateral (
      select l.sequence, l.image, 0::float8 as finished_ms from live l where l.key = k.key
      union all
      select f.sequence, f.image, f.finished_ms from finished f where f.key = k.key
      limit 1) r
    order by k.at`,
}
const due = (clock: DueClock): Statement => ({
  name: `due-${clock}`,
  text: `select key, due_${clock}_ms from live
    where log = $1 and due_${clock}_ms <= $2 and (due_${clock}_ms, key) > ($3, $4)
    order by due_${clock}_ms, key limit $5`,
})
const DUE = { log: due('log'), wall: due('wall') }

/** What the images need. */
export interface PostgresImagesOptions {
  readonly checkpoints: Connections
  readonly reads: Connections
  /** For lists, whose statements are planned anew: how many rows have a tag is different with each. */
  readonly lists: Connections
  readonly days: Days
  readonly retentionMs: number
  readonly now: () => number
}

/** The images of the PostgreSQL store. */
export class PostgresImages implements ImageStore {
  readonly showsFacts = true
  readonly #options: PostgresImagesOptions

  constructor(options: PostgresImagesOptions) {
    this.#options = options
  }

  async checkpoint(handle: LogHandle, checkpoint: Checkpoint): Promise<'done' | 'fenced'> {
    if (!(handle instanceof PostgresHandle)) throw new InvariantViolation('a handle of another store')
    if (handle.isReleased) return 'fenced'
    const { checkpoints, days } = this.#options
    const sorted = [...checkpoint.rows].sort((one, other) => compareKeys(one.key, other.key))
    await this.#makeDays(sorted)
    const doing = `a checkpoint of log ${handle.log}`
    const outcome = await checkpoints.use(doing, async (session) => {
      try {
        return await write(session, handle, { ...checkpoint, rows: sorted })
      } catch (error) {
        // Somebody else dropped a partition: the next try makes it anew.
        if (isTableMissing(error)) days.forget()
        throw error
      }
    })
    if (outcome === 'done') handle.checkpointDone(checkpoint.checkpointed)
    return outcome
  }

  async #makeDays(rows: readonly ImageRow[]): Promise<void> {
    const { days, now } = this.#options
    const today = dayOf(now())
    for (const day of new Set(
      rows.flatMap(({ finishedAtMs }) => (finishedAtMs === 0 ? [] : [dayOf(finishedAtMs)])),
    ))
      await days.make(day)
    // Ahead of midnight, and beside the checkpoint. One that fails is made by the checkpoint that needs it.
    days.make(today + 1).catch(() => {})
  }

  async load(keys: readonly TransactionKey[]): Promise<readonly (StoredImage | undefined)[]> {
    const found = new Array<StoredImage | undefined>(keys.length).fill(undefined)
    if (keys.length === 0) return found
    await this.#options.reads.use('loading transactions', async (session) => {
      for (let from = 0; from < keys.length; ) {
        const rows = await session.query(LOAD, [textArray(keys.slice(from))])
        for (const [at, sequence, bytes, finishedAtMs] of rows)
          if (bytes !== null)
            found[from + (at as number) - 1] = { sequence, bytes, finishedAtMs } as StoredImage
        const cut = rows.find(([, , bytes]) => bytes === null)
        from = cut === undefined ? keys.length : from + (cut[0] as number) - 1
      }
    })
    return found
  }

  async due(
    log: number,
    clock: DueClock,
    untilMs: number,
    after: DueEntry | undefined,
    limit: number,
  ): Promise<readonly DueEntry[]> {
    const { dueMs, key } = after ?? { dueMs: '-Infinity', key: '' }
    const rows = await this.#options.reads.use('looking for what is due', (session) =>
      session.query(DUE[clock], [log, untilMs, dueMs, key, limit]),
    )
    return rows.map(([found, foundMs]) => ({ key: found as TransactionKey, dueMs: foundMs as number }))
  }

  async query(
    query: ImageQuery,
  ): Promise<readonly { readonly key: TransactionKey; readonly stored: StoredImage }[]> {
    return await this.#options.lists.use('listing transactions', (session) => queryImages(session, query))
  }

  async dropFinishedBefore(wallMs: number): Promise<number> {
    const { days, now, retentionMs } = this.#options
    return await days.dropBefore(Math.min(wallMs, now() - retentionMs))
  }
}

async function write(
  session: Session,
  handle: PostgresHandle,
  checkpoint: Checkpoint,
): Promise<'done' | 'fenced'> {
  const { rows, checkpointed, clock } = checkpoint
  const common = [handle.log, clock.wallMs]
  await session.query('begin')
  await session.query(TURN, [handle.log])
  for (const part of parts(rows.filter(({ finishedAtMs }) => finishedAtMs === 0)))
    await LIVE_SHAPE.lend(part, (arrays) => session.query(WRITE_LIVE, [...common, ...arrays]))
  for (const [day, finished] of byDay(rows)) {
    for (const part of parts(finished)) {
      await FINISHED_SHAPE.lend(part, (arrays) => session.query(writeFinished(day), [...common, ...arrays]))
      const old = part.filter(({ isNew }) => !isNew)
      if (old.length > 0) await session.query(LEAVE, [textArray(old.map(({ key }) => key)), sequences(old)])
    }
  }
  const values = [handle.log, handle.claimed.epoch, checkpointed, clock.wallMs, clock.logMs]
  const { rowCount } = await session.run(ADVANCE, values)
  if (rowCount === 0) return await refuse(session, handle, checkpointed)
  const { command } = await session.run('commit')
  if (command === 'COMMIT') return 'done'
  throw new EscrowError('storeUnavailable', `COMMIT was answered with ${command}`)
}

/** Rolls back, and tells why nothing was advanced. */
async function refuse(session: Session, handle: PostgresHandle, checkpointed: number): Promise<'fenced'> {
  await session.query('rollback')
  const [row] = await session.query(STANDING, [handle.log])
  if (row?.[0] !== handle.claimed.epoch) return 'fenced'
  throw new InvariantViolation(`checkpoint ${checkpointed} above the head ${row[1]} of log ${handle.log}`)
}

function byDay(rows: readonly ImageRow[]): Map<number, ImageRow[]> {
  const days = new Map<number, ImageRow[]>()
  for (const row of rows) {
    if (row.finishedAtMs === 0) continue
    const day = dayOf(row.finishedAtMs)
    const known = days.get(day)
    if (known === undefined) days.set(day, [row])
    else known.push(row)
  }
  return days
}

/** As much as one statement takes, again and again. */
function* parts(rows: readonly ImageRow[]): Generator<readonly ImageRow[]> {
  for (let from = 0; from < rows.length; ) {
    let bytes = 0
    let to = from
    while (to < rows.length && to - from < ROWS_PER_STATEMENT && bytes < BYTES_PER_STATEMENT) {
      bytes += (rows[to] as ImageRow).bytes.length
      to += 1
    }
    yield rows.slice(from, to)
    from = to
  }
}

function sequences(rows: readonly ImageRow[]): Buffer {
  const array = new ArrayBuilder(ELEMENT.int8, 32 + 12 * rows.length)
  for (const { sequence } of rows) array.int8(sequence)
  return array.finish()
}
