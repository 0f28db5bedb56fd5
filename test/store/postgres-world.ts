import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { systemRuntime } from '../../src/runtime.ts'
import { openPostgresStore, type PostgresStoreOptions } from '../../src/store/postgres/store.ts'
import type { Store } from '../../src/store/store.ts'
import { type FaultProxy, startFaultProxy } from '../services/fault-proxy.ts'
import type { PostgresService } from '../services/postgres.ts'
import { NOON_MS } from './contract-fixtures.ts'

/** One database, the stores that are open in it, and what else looks at it. */
export class PostgresWorld {
  readonly #postgres: PostgresService
  #databases = 0
  #url = ''
  #ends: (() => Promise<unknown>)[] = []
  #watcher: pg.Client | undefined

  constructor(postgres: PostgresService) {
    this.#postgres = postgres
  }

  /** The database's URL, of the server itself. */
  get url(): string {
    return this.#url
  }

  /** A database of the test's own. */
  async begin(): Promise<void> {
    this.#databases += 1
    this.#url = await this.#postgres.database(`store_${process.pid}_${this.#databases}`)
  }

  async end(): Promise<void> {
    this.#watcher = undefined
    for (const end of this.#ends.splice(0).reverse()) await end()
  }

  /** Opens the store. */
  async store(options: Partial<PostgresStoreOptions> = {}): Promise<Store> {
    const { setTimer } = systemRuntime
    const random = (bytes: number): Uint8Array => randomBytes(bytes)
    const store = await openPostgresStore({
      url: this.#url,
      now: () => NOON_MS,
      random,
      setTimer,
      ...options,
    })
    this.#ends.push(() => store.close())
    return store
  }

  /** Somebody else in the database. */
  async client(url = this.#url): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url, options: '-c search_path=escrow,public' })
    client.on('error', () => {})
    await client.connect()
    this.#ends.push(() => client.end())
    return client
  }

  async proxy(): Promise<FaultProxy> {
    const { hostname, port } = new URL(this.#url)
    const proxy = await startFaultProxy({ target: { host: hostname, port: Number(port) } })
    this.#ends.push(() => proxy.close())
    return proxy
  }

  /** Waits until so many sessions of the store wait for a lock; returns their processes, the longest first. */
  async locked(count: number): Promise<number[]> {
    // Somebody who is in no transaction: in one, what is seen of the others stays as it was at first.
    this.#watcher ??= await this.client()
    for (let tries = 0; tries < 500; tries++) {
      const { rows } = await this.#watcher.query<{ pid: number }>(
        `select pid from pg_stat_activity where datname = current_database() and application_name = 'escrow'
          and wait_event_type = 'Lock' order by query_start`,
      )
      if (rows.length === count) return rows.map(({ pid }) => pid)
      await sleep(10)
    }
    throw new Error(`never ${count} sessions that wait for a lock`)
  }
}
