import type { Table } from './environment.ts'

/** What one write will do: collected first, because nothing may throw while a batch is queued. */
export class Changes {
  readonly #tables: Table[] = []
  readonly #keys: Uint8Array[] = []
  readonly #values: (Uint8Array | undefined)[] = []

  put(table: Table, key: Uint8Array, value: Uint8Array): void {
    this.#add(table, key, value)
  }

  remove(table: Table, key: Uint8Array): void {
    this.#add(table, key, undefined)
  }

  queue(): void {
    for (let i = 0; i < this.#tables.length; i++) {
      const table = this.#tables[i] as Table
      const value = this.#values[i]
      if (value === undefined) table.remove(this.#keys[i] as Uint8Array)
      else table.put(this.#keys[i] as Uint8Array, value)
    }
  }

  #add(table: Table, key: Uint8Array, value: Uint8Array | undefined): void {
    this.#tables.push(table)
    this.#keys.push(key)
    this.#values.push(value)
  }
}
