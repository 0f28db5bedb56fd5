/** One database for each service, on a PostgreSQL of our own or on the one that DATABASE_URL names. */
import { Client } from 'pg'
import { startEmbeddedPostgres } from './embedded-postgres.ts'
import type { ShopDatabases } from './reconciliation.ts'

/** Any number that nobody else on the server uses as an advisory lock. */
const lockKey = 7_411_2026
const names: readonly (keyof ShopDatabases)[] = ['orders', 'inventory', 'payment', 'audit']

/** The databases, empty at first. */
export interface OpenDatabases {
  readonly urls: ShopDatabases<string>
  /** Which server it is, for people. */
  readonly server: string
  stop(): Promise<void>
}

/** Makes the databases `escrow_shop_…`. Those that an earlier run left on the server of `databaseUrl` are dropped. */
export async function openDatabases(databaseUrl: string | undefined): Promise<OpenDatabases> {
  if (databaseUrl !== undefined) return await openOnServer(databaseUrl)
  const postgres = await startEmbeddedPostgres()
  try {
    const urls = await forEach((name) => postgres.database(`escrow_shop_${name}`))
    const server = `PostgreSQL ${postgres.version}, embedded, port ${postgres.port}`
    return { urls, server, stop: () => postgres.stop() }
  } catch (error) {
    await postgres.stop()
    throw error
  }
}

async function openOnServer(databaseUrl: string): Promise<OpenDatabases> {
  const admin = new Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 })
  admin.on('error', () => {})
  try {
    await admin.connect()
    const { rows } = await admin.query(
      `select pg_try_advisory_lock(${lockKey}) as free, current_setting('server_version') as version`,
    )
    if (!rows[0].free) throw new Error('another shop is running on this server')
    const urls = await forEach(async (name) => {
      await admin.query(`drop database if exists escrow_shop_${name} with (force)`)
      await admin.query(`create database escrow_shop_${name}`)
      const url = new URL(databaseUrl)
      url.pathname = `/escrow_shop_${name}`
      return url.href
    })
    const server = `PostgreSQL ${rows[0].version} of DATABASE_URL`
    // The connection holds the lock until the end; the databases stay for a look.
    return { urls, server, stop: () => admin.end() }
  } catch (error) {
    await admin.end().catch(() => {})
    throw new Error(`can't make databases with DATABASE_URL: ${(error as Error).message}`, { cause: error })
  }
}

/** One after another: the server makes one database at a time from its template. */
async function forEach(make: (name: keyof ShopDatabases) => Promise<string>): Promise<ShopDatabases<string>> {
  const urls: Partial<Record<keyof ShopDatabases, string>> = {}
  for (const name of names) urls[name] = await make(name)
  return urls as ShopDatabases<string>
}
