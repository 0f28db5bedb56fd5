import { dayOf } from '../images.ts'
import type { Environment, Table } from './environment.ts'
import { keyText, NOTHING, textKey } from './row.ts'

/** The tables of finished images, one for each UTC day, so that a day is forgotten by dropping its table. */
export class Days {
  readonly #environment: Environment
  readonly #names: Table
  /** The latest first: what a client repeats is most often young. */
  #tables: { readonly day: number; readonly table: Table }[] = []

  /** Opens the days that there are. */
  constructor(environment: Environment, names: Table) {
    this.#environment = environment
    this.#names = names
    for (const key of names.getKeys()) this.#open(Number(keyText(key)))
  }

  /** The tables, the latest day first. */
  get tables(): readonly { readonly day: number; readonly table: Table }[] {
    return this.#tables
  }

  /** The table of what finished at this time, if there is one yet. */
  of(finishedAtMs: number): Table | undefined {
    const day = dayOf(finishedAtMs)
    return this.#tables.find((each) => each.day === day)?.table
  }

  /** Makes the table of what finished at this time, durably. */
  async make(finishedAtMs: number): Promise<Table> {
    const day = dayOf(finishedAtMs)
    // Noted before it is used, so that every table is found again.
    const key = textKey(String(day))
    await this.#environment.writeAlways(() => void this.#names.put(key, NOTHING))
    return this.#open(day)
  }

  /** Drops the days before this one; returns how many. */
  async dropBefore(day: number): Promise<number> {
    const old = this.#tables.filter((each) => each.day < day)
    this.#tables = this.#tables.filter((each) => each.day >= day)
    for (const { day: dropped, table } of old) {
      const key = textKey(String(dropped))
      await this.#environment.writeAlways(() => {
        table.drop()
        this.#names.remove(key)
      })
    }
    return old.length
  }

  #open(day: number): Table {
    const table = this.#environment.table(`finished-${day}`)
    this.#tables = [...this.#tables, { day, table }].sort((one, other) => other.day - one.day)
    return table
  }
}
