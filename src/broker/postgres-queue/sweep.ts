/** Deletes messages that nobody needs any more. */
import { ArrayBuilder, ELEMENT } from '../../core/postgres-arrays.ts'
import type { Statement } from '../../core/postgres-session.ts'
import type { Connections } from './connections.ts'
import { LANES } from './schema.ts'

/** What is kept, milliseconds. */
export interface SweepOptions {
  readonly connections: Connections
  readonly schema: string
  /** At least. */
  readonly deduplicationMs: number
  /** At most. */
  readonly retentionMs: number
}

const SWEEP_MS = 10_000
const STATEMENT_MS = 30_000
/** Messages of a lane that one statement looks at. */
const WINDOW = 500
/** Statements for a topic and sweep. */
const ROUNDS_MAX = 50
/** What committed late, behind what was swept, is found by a sweep that begins at the beginning: one in so many. */
const WHOLE_EVERY = 60

/**
 * Looks at a lane's oldest messages beyond a position. One may go when it is older than the retention, or when it is older
 * than ids are remembered and all groups, of which there is one at least, have acknowledged it. One sweeper at a time.
 * Answers for each lane: how many it looked at, how many are gone, and from where on there may be more.
 */
const sweepText = (s: string): string => `with turn as materialized (
    select pg_try_advisory_xact_lock(hashtext($5), $1::int4) as is_ours),
  old as materialized (
    select m.* from turn cross join unnest($2::int4[], $3::int8[]) as u (lane, beyond) cross join lateral (
      select lane, position, xid, created_at from ${s}.messages
      where topic = $1 and lane = u.lane and position > u.beyond
        and created_at < now() - $4::float8 * interval '1 ms' order by position limit ${WINDOW}) m
    where turn.is_ours),
  gone as (
    delete from ${s}.messages m using old
    where m.topic = $1 and m.lane = old.lane and m.position = old.position
      and (old.created_at < now() - $6::float8 * interval '1 ms' or exists (select from ${s}.groups where topic = $1)
        and not exists (
          select from ${s}.groups g join ${s}.lanes l on l.group_id = g.group_id and l.lane = old.lane
          where g.topic = $1 and not (old.position <= l.read_to and pg_visible_in_snapshot(old.xid, l.seen)
            and old.position <> all (l.open))))
    returning m.lane, m.position)
  select old.lane, count(*)::int4, count(gone.position)::int4,
    coalesce(min(old.position) filter (where gone.position is null) - 1, max(old.position))
  from old left join gone on gone.lane = old.lane and gone.position = old.position group by old.lane`

/** Sweeps the topics of one broker every ten seconds, until it is stopped. */
export class Sweep {
  readonly #options: SweepOptions
  readonly #statement: Statement
  /** By topic: from where on there may be messages, lane by lane. */
  readonly #topics = new Map<number, number[]>()
  #timer: NodeJS.Timeout | undefined
  #sweeps = 0

  constructor(options: SweepOptions) {
    this.#options = options
    this.#statement = { name: 'escrow_queue_sweep', text: sweepText(`"${options.schema}"`) }
  }

  /** From now on it is swept. */
  add(topic: number): void {
    if (this.#topics.has(topic)) return
    this.#topics.set(topic, new Array(LANES).fill(0))
    this.#timer ??= setTimeout(() => void this.#again(), SWEEP_MS).unref()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#topics.clear()
  }

  async #again(): Promise<void> {
    await this.sweep()
    if (this.#topics.size > 0) this.#timer = setTimeout(() => void this.#again(), SWEEP_MS).unref()
  }

  /** Sweeps all topics once. What fails now is done next time. */
  async sweep(): Promise<void> {
    this.#sweeps += 1
    for (const [topic, beyond] of this.#topics) {
      if (this.#sweeps % WHOLE_EVERY === 0) beyond.fill(0)
      await this.#sweepTopic(topic, beyond).catch(() => {})
    }
  }

  async #sweepTopic(topic: number, beyond: number[]): Promise<void> {
    const { connections, schema, deduplicationMs, retentionMs } = this.#options
    let lanes = beyond.map((_, lane) => lane)
    for (let round = 1; round <= ROUNDS_MAX && lanes.length > 0; round++) {
      const numbers = new ArrayBuilder(ELEMENT.int4)
      const positions = new ArrayBuilder(ELEMENT.int8)
      for (const lane of lanes) {
        numbers.int4(lane)
        positions.int8(beyond[lane] as number)
      }
      const values = [
        topic,
        numbers.finish(),
        positions.finish(),
        deduplicationMs,
        `escrow sweep ${schema}`,
        retentionMs,
      ]
      const signal = AbortSignal.timeout(STATEMENT_MS)
      const rows = await connections.use('sweeping', signal, (connection) =>
        connection.run(this.#statement, values, signal),
      )
      lanes = []
      for (const [lane, looked, gone, from] of rows as readonly [number, number, number, number][]) {
        beyond[lane] = from
        if (looked === WINDOW && gone > 0) lanes.push(lane)
      }
    }
  }
}
