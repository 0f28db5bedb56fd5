/**
 * The partitions of what finished, one for each UTC day. A day is forgotten by dropping its table.
 *
 * | state    | the table                                    | leaves by                                     |
 * |----------|----------------------------------------------|-----------------------------------------------|
 * | absent   | isn't there                                  | `make`                                        |
 * | attached | is a partition of `finished`                 | `drop`: detached without a lock on the others |
 * | leaving  | is being detached, or was left so by a crash | `drop` finishes it                            |
 * | orphan   | is there, and no partition                   | `drop`, `make` (which makes it anew)          |
 *
 * Making and dropping exclude each other by a lock of the session. Neither takes a lock that a checkpoint, a load or a query
 * of another day would wait for.
 */
import { dayOf } from '../images.ts'
import type { Connections } from './connections.ts'
import type { Session } from './session.ts'

const DAY_MS = 86_400_000
const TABLE = /^finished_(\d+)$/

const LOCK = "select pg_advisory_lock('finished'::regclass::oid::int8)"
const UNLOCK = "select pg_advisory_unlock('finished'::regclass::oid::int8)"
const TABLES = `select c.relname, i.inhrelid is not null, coalesce(i.inhdetachpending, false)
  from pg_class c left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'finished'::regclass
  where c.relnamespace = (select relnamespace from pg_class where oid = 'finished'::regclass)
    and c.relkind = 'r' and c.relname ~ '^finished_[0-9]+$'`

/**
 * Nothing of a partition is ever deleted but the whole. Vacuumed for its insertions, it would cost a pass over each page, and
 * from then on the gaps at their ends would be offered to rows that fit: a page read, and written whole to the WAL, for each.
 */
const APPENDED_ONLY = 'autovacuum_vacuum_insert_threshold = -1'

interface DayTable {
  readonly day: number
  readonly isAttached: boolean
  readonly isLeaving: boolean
}

/** The table of a day. */
export const dayTable = (day: number): string => `finished_${day}`

/** The partitions of what finished. */
export class Days {
  readonly #connections: Connections
  /** Those that are there, as far as this process knows: another may drop one. */
  readonly #known = new Set<number>()
  readonly #making = new Map<number, Promise<void>>()

  constructor(connections: Connections) {
    this.#connections = connections
  }

  /** Sees to it that the partition of a day is there. */
  async make(day: number): Promise<void> {
    if (this.#known.has(day)) return
    let making = this.#making.get(day)
    if (making === undefined) {
      making = this.#make(day).finally(() => this.#making.delete(day))
      this.#making.set(day, making)
    }
    await making
  }

  /** Forgets which ones are there: one of them isn't. */
  forget(): void {
    this.#known.clear()
  }

  async #make(day: number): Promise<void> {
    await this.#locked(`making the partition of day ${day}`, async (session, tables) => {
      const known = tables.find((table) => table.day === day)
      if (known?.isAttached && !known.isLeaving) return
      // What left was to be forgotten.
      if (known !== undefined) await drop(session, known)
      const table = dayTable(day)
      await session.query('begin')
      await session.query(
        `create table ${table} (like finished including storage including indexes) with (${APPENDED_ONLY})`,
      )
      // Unique in its day: a row that is written again, by a repeated checkpoint, is found by it.
      await session.query(`create unique index ${table}_key on ${table} (key)`)
      const [from, to] = [day * DAY_MS, (day + 1) * DAY_MS]
      await session.query(
        `alter table finished attach partition ${table} for values from (${from}) to (${to})`,
      )
      await session.query('commit')
    })
    this.#known.add(day)
  }

  /** Drops the days that ended before this time; returns how many. */
  async dropBefore(wallMs: number): Promise<number> {
    return await this.#locked('dropping what finished long ago', async (session, tables) => {
      const old = tables.filter(({ day }) => day < dayOf(wallMs))
      for (const table of old) {
        this.#known.delete(table.day)
        await drop(session, table)
      }
      return old.length
    })
  }

  /** The lock goes with the session, if that breaks. */
  async #locked<T>(
    doing: string,
    work: (session: Session, tables: readonly DayTable[]) => Promise<T>,
  ): Promise<T> {
    return await this.#connections.use(doing, async (session) => {
      await session.query(LOCK)
      const rows = await session.query(TABLES)
      const tables = rows.map(([name, isAttached, isLeaving]) => ({
        day: Number(TABLE.exec(name as string)?.[1]),
        isAttached: isAttached as boolean,
        isLeaving: isLeaving as boolean,
      }))
      const result = await work(session, tables)
      await session.query(UNLOCK)
      return result
    })
  }
}

async function drop(session: Session, { day, isAttached, isLeaving }: DayTable): Promise<void> {
  const table = dayTable(day)
  if (isAttached)
    await session.query(
      `alter table finished detach partition ${table} ${isLeaving ? 'finalize' : 'concurrently'}`,
    )
  await session.query(`drop table ${table}`)
}
