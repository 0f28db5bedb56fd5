import { PostgresUrl } from '../../core/postgres-url.ts'
import { OptionGate } from '../option-gate.ts'
import type { PostgresQueueOptions } from '../postgres-queue.ts'
import { DEFAULT_SCHEMA, SCHEMA, SCHEMA_ALLOWED } from './schema.ts'

/** The options, complete and within their bounds. */
export interface ParsedOptions {
  readonly url: PostgresUrl
  readonly schema: string
  readonly migrate: boolean
  readonly durability: 'any' | 'replicated'
  readonly missingTopics: 'refuse' | 'create'
  readonly connectionsMax: number
  readonly leaseMs: number
  readonly pollMs: number
  readonly deduplicationMs: number
  readonly retentionMs: number
}

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

const KNOWN = [
  'url',
  'schema',
  'migrate',
  'durability',
  'missingTopics',
  'connectionsMax',
  'leaseMs',
  'pollMs',
  'deduplicationMs',
  'retentionMs',
] as const satisfies readonly (keyof PostgresQueueOptions)[]

/** Checks and completes the options. Throws `invalidArgument`, which never has the URL in it. */
export function parseOptions(options: PostgresQueueOptions): ParsedOptions {
  const gate = new OptionGate('postgresQueue', options, KNOWN)
  const url = gate.text('url') ?? gate.missing('url', 'postgres://user:password@host:port/database')
  const deduplicationMs = gate.integer('deduplicationMs', MINUTE_MS, 31 * DAY_MS) ?? HOUR_MS
  const retentionMs = gate.integer('retentionMs', MINUTE_MS, 365 * DAY_MS) ?? 7 * DAY_MS
  if (retentionMs < deduplicationMs)
    throw gate.invalid('retentionMs', `at least deduplicationMs, ${deduplicationMs}`, retentionMs)
  return {
    url: new PostgresUrl(url),
    schema: gate.matching('schema', SCHEMA, SCHEMA_ALLOWED) ?? DEFAULT_SCHEMA,
    migrate: gate.boolean('migrate') ?? true,
    ...gate.topicPolicy(),
    connectionsMax: gate.integer('connectionsMax', 2, 100) ?? 8,
    leaseMs: gate.integer('leaseMs', 1_000, 10 * MINUTE_MS) ?? 30_000,
    pollMs: gate.integer('pollMs', 10, MINUTE_MS) ?? 500,
    deduplicationMs,
    retentionMs,
  }
}
