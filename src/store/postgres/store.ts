/**
 * The PostgreSQL store: one schema of one database, which many nodes share. A node's logs append by one connection together,
 * and each has one of its own, for what it can't wait with the others for; beside those there are a few for checkpoints,
 * reading, lists, claims and the directory, so that none waits for another: 16 and one for each log that it owns, at most.
 */
import { EscrowError } from '../../core/errors.ts'
import { PostgresUrl } from '../../core/postgres-url.ts'
import type { Runtime } from '../../core/runtime.ts'
import type { Store } from '../store.ts'
import { Connections } from './connections.ts'
import { Days } from './days.ts'
import { PostgresDirectory } from './directory.ts'
import { PostgresImages } from './images.ts'
import { PostgresLogs } from './logs.ts'
import { identify, type MigrationOptions, migrate } from './migrate.ts'

/** What the PostgreSQL store takes. */
export interface PostgresStoreOptions {
  /** `postgres://user:password@host:port/database`, of the server itself: behind a pooler it is refused. */
  readonly url: string
  /** A schema of its own, made if it isn't there: a-z, 0-9 and '_', at most 48, not first a digit. Default `escrow`. */
  readonly schema?: string | undefined
  /** How many logs a new store gets: 1 to 1,024, default 16. One that is there keeps its own. */
  readonly logs?: number | undefined
  /** How long finished transactions are kept at least: 24 h (the default) to 31 days. */
  readonly retentionMs?: number | undefined
  /** The lease of the nodes: 500 ms to 10 minutes, default 5 s. What hangs is given up within it, here and on the server. */
  readonly leaseMs?: number | undefined
  /** Whether the schema is brought to this version's format. Default true; else a store of another format is refused. */
  readonly migrate?: boolean | undefined
  /** Wall clock, milliseconds since the Unix epoch. */
  readonly now: () => number
  /** Unpredictable bytes. */
  readonly random: (bytes: number) => Uint8Array
  readonly setTimer: Runtime['setTimer']
}

const DAY_MS = 86_400_000
const LOGS = 16
const LOGS_MAX = 1_024
const RETENTION_DAYS_MAX = 31
const LEASE_MS = 5_000
const LEASE_MS_MIN = 500
const LEASE_MS_MAX = 600_000
const SCHEMA = /^[a-z_][a-z0-9_]{0,47}$/

/** Connections by purpose, beside the logs' own. */
const CHECKPOINT_CONNECTIONS = 4
const READ_CONNECTIONS = 4
const LIST_CONNECTIONS = 2
const CLAIM_CONNECTIONS = 2
const CONTROL_CONNECTIONS = 2
/** A drop may wait for a long report: what is made or dropped besides waits with it, and nothing else does. */
const DAY_CONNECTIONS = 1

/**
 * Opens the store in a database, or makes it. Rejects with `invalidArgument` (an option, a password, a database that isn't
 * there, a schema that is somebody else's, a pooler, fsync = off), `storeUnavailable` (try again), `storeFormat` (written by a
 * newer version; or by an older one, and `migrate` is false).
 */
export async function openPostgresStore(options: PostgresStoreOptions): Promise<Store> {
  const { now } = options
  const retentionMs = bounded(
    'retentionMs',
    options.retentionMs ?? DAY_MS,
    DAY_MS,
    RETENTION_DAYS_MAX * DAY_MS,
  )
  const parsed = parseOptions(options)
  const identity = await (options.migrate === false ? identify(parsed) : migrate(parsed))
  const checkpoints = new Connections(parsed, CHECKPOINT_CONNECTIONS)
  const reads = new Connections(parsed, READ_CONNECTIONS)
  const lists = new Connections({ ...parsed, plansAnew: true }, LIST_CONNECTIONS)
  const claims = new Connections(parsed, CLAIM_CONNECTIONS)
  const control = new Connections(parsed, CONTROL_CONNECTIONS)
  const log = new PostgresLogs({ identity, connection: parsed, claims, control, checkpoints })
  const forDays = new Connections(parsed, DAY_CONNECTIONS)
  return {
    log,
    images: new PostgresImages({ checkpoints, reads, lists, days: new Days(forDays), retentionMs, now }),
    directory: new PostgresDirectory(control),
    close: async () => {
      const all = [checkpoints, reads, lists, claims, control, forDays]
      await Promise.all([log.close(), ...all.map((connections) => connections.close())])
    },
  }
}

/** Brings the schema to this version's format, as `openPostgresStore` does. Rejects likewise. */
export async function migratePostgresStore(
  options: Pick<PostgresStoreOptions, 'url' | 'schema' | 'logs' | 'random' | 'setTimer'>,
): Promise<{ readonly format: number }> {
  const { format } = await migrate(parseOptions(options))
  return { format }
}

function parseOptions(
  options: Pick<PostgresStoreOptions, 'url' | 'schema' | 'logs' | 'leaseMs' | 'random' | 'setTimer'>,
): MigrationOptions {
  const { schema = 'escrow', random, setTimer } = options
  if (!SCHEMA.test(schema) || schema.startsWith('pg_'))
    throw new EscrowError(
      'invalidArgument',
      `schema ${JSON.stringify(schema)} is not 1-48 of a-z, 0-9 and '_', not first a digit or 'pg_'`,
    )
  const logs = bounded('logs', options.logs ?? LOGS, 1, LOGS_MAX)
  if (!Number.isInteger(logs)) throw new EscrowError('invalidArgument', `logs ${logs} is not a whole number`)
  const leaseMs = bounded('leaseMs', options.leaseMs ?? LEASE_MS, LEASE_MS_MIN, LEASE_MS_MAX)
  return { url: new PostgresUrl(options.url), schema, logs, leaseMs, random, setTimer }
}

function bounded(name: string, value: number, min: number, max: number): number {
  if (value >= min && value <= max) return value
  throw new EscrowError('invalidArgument', `${name} ${value} is not from ${min} to ${max}`)
}
