/** The options that say where transactions are kept, and who shares that with whom. */
import { resolve } from 'node:path'
import { integer, invalid, record, text } from './config-fields.ts'
import { EscrowError } from './core/errors.ts'
import { PostgresUrl } from './core/postgres-url.ts'

/** A PostgreSQL as a store. */
export interface PostgresSettings {
  /** `postgres://user:password@host:port/database`; what else stands behind a `?`, `pg` takes. */
  readonly url: string
  /** The schema that its tables stand in: made if it isn't there. Default `escrow`. */
  readonly schema?: string | undefined
  /** How many logs a new store gets, for good: 1-1,024, default 16. A store that is there keeps its own. */
  readonly logs?: number | undefined
  /** Whether a start brings the schema to what this version knows. Default true; false where `escrow migrate` does. */
  readonly migrate?: boolean | undefined
}

/** Where transactions are kept. */
export type StoreConfig =
  | { readonly kind: 'embedded'; readonly path: string }
  | {
      readonly kind: 'postgres'
      /** Prints without its password. */
      readonly url: PostgresUrl
      readonly schema: string
      readonly logs: number
      readonly migrate: boolean
    }

/** What makes a coordinator one of many on a store that they share. */
export interface ClusterSettings {
  /** `host:port` where the others reach its gRPC server; no two have the same. Default: where it listens, by this machine's name where that is everywhere. */
  readonly advertise?: string | undefined
  /** How long it may be silent before the others take over its logs: 1,000-60,000 ms, default 5,000. */
  readonly leaseMs?: number | undefined
}

/** The same, complete. */
export interface ClusterConfig {
  /** Empty: where it listens. */
  readonly advertise: string
  readonly leaseMs: number
}

const SCHEMA = /^[a-z_][a-z0-9_]{0,62}$/
const EXPECTED = '"embedded:FOLDER" or "postgres://USER:PASSWORD@HOST:PORT/DATABASE"'

/** Parses the option `store`. Throws `invalidArgument`, without anything that may be a password. */
export function parseStore(given: string | { readonly path: string } | PostgresSettings): StoreConfig {
  if (typeof given === 'string') return storeOfUrl(given, {})
  if (typeof given === 'object' && given !== null && 'url' in given) {
    const { url, ...rest } = record('store', given, [
      'url',
      'schema',
      'logs',
      'migrate',
    ]) as PostgresSettings & object
    return storeOfUrl(text('store.url', url), rest)
  }
  return storeOfUrl(`embedded:${text('store.path', record('store', given, ['path']).path)}`, {})
}

function storeOfUrl(url: string, settings: Omit<PostgresSettings, 'url'>): StoreConfig {
  if (/^postgres(ql)?:\/\//.test(url)) return postgres(url, settings)
  const path = url.startsWith('embedded:') ? url.slice('embedded:'.length) : ''
  // Not the whole value: what stands behind another scheme may hold a password.
  if (path === '') throw invalid('store', `${url.split(':', 1)[0]}:…`, EXPECTED)
  return { kind: 'embedded', path: resolve(path) }
}

function postgres(
  url: string,
  { schema = 'escrow', logs = 16, migrate = true }: Omit<PostgresSettings, 'url'>,
): StoreConfig {
  const parsed = parseUrl(url)
  if (typeof schema !== 'string' || !SCHEMA.test(schema))
    throw invalid('store.schema', schema, "1-63 of a-z, 0-9 and '_', not first a digit")
  if (typeof migrate !== 'boolean') throw invalid('store.migrate', migrate, 'one of true, false')
  return {
    kind: 'postgres',
    url: parsed,
    schema,
    logs: integer('store.logs', logs, 1, 1_024),
    migrate,
  }
}

function parseUrl(url: string): PostgresUrl {
  try {
    return new PostgresUrl(url)
  } catch (thrown) {
    throw new EscrowError('invalidArgument', `option store: ${EscrowError.from(thrown).message}`, {
      cause: thrown,
    })
  }
}

/** Parses the option `cluster`. Throws `invalidArgument`. */
export function parseCluster(given: ClusterSettings = {}): ClusterConfig {
  const { advertise = '', leaseMs = 5_000 } = record('cluster', given, [
    'advertise',
    'leaseMs',
  ]) as ClusterSettings
  const isAddress = /^[^\s/:]+:\d{1,5}$|^\[[0-9A-Fa-f:.]+\]:\d{1,5}$/.test(
    text('cluster.advertise', advertise),
  )
  if (advertise !== '' && !isAddress) throw invalid('cluster.advertise', advertise, 'HOST:PORT')
  return { advertise, leaseMs: integer('cluster.leaseMs', leaseMs, 1_000, 60_000) }
}
