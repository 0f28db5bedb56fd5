import { EscrowError } from '../../core/errors.ts'
import { PostgresUrl } from '../../core/postgres-url.ts'
import type { PostgresQueueOptions } from '../postgres-queue.ts'
import { checkSchema, DEFAULT_SCHEMA } from './schema.ts'

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

const DEFAULTS = {
  schema: DEFAULT_SCHEMA,
  migrate: true,
  durability: 'any',
  missingTopics: 'refuse',
  connectionsMax: 8,
  leaseMs: 30_000,
  pollMs: 500,
  deduplicationMs: HOUR_MS,
  retentionMs: 7 * DAY_MS,
} as const

/** Least and most of each number. */
const RANGES = {
  connectionsMax: [2, 100],
  leaseMs: [1_000, 10 * MINUTE_MS],
  pollMs: [10, MINUTE_MS],
  deduplicationMs: [MINUTE_MS, 31 * DAY_MS],
  retentionMs: [MINUTE_MS, 365 * DAY_MS],
} as const

const CHOICES = {
  migrate: [true, false],
  durability: ['any', 'replicated'],
  missingTopics: ['refuse', 'create'],
} as const

/** Checks and completes the options. Throws `invalidArgument`, which never has the URL in it. */
export function parseOptions(options: PostgresQueueOptions): ParsedOptions {
  const known = ['url', ...Object.keys(DEFAULTS)]
  for (const name of Object.keys(options ?? {}))
    if (!known.includes(name)) throw invalid(name, 'is not an option', `one of ${known.join(', ')}`)
  const given = Object.fromEntries(Object.entries(options ?? {}).filter(([, value]) => value !== undefined))
  const { url, ...all } = { ...DEFAULTS, ...given } as unknown as ParsedOptions & { readonly url: unknown }
  if (typeof url !== 'string')
    throw invalid('url', 'is missing', 'postgres://user:password@host:port/database')
  if (typeof all.schema !== 'string') throw invalid('schema', `is ${JSON.stringify(all.schema)}`, 'a name')
  checkSchema(all.schema)
  for (const [name, [min, max]] of Object.entries(RANGES)) {
    const value: unknown = all[name as keyof typeof RANGES]
    if (!Number.isInteger(value) || (value as number) < min || (value as number) > max)
      throw invalid(name, `is ${JSON.stringify(value)}`, `a whole number from ${min} to ${max}`)
  }
  for (const [name, allowed] of Object.entries(CHOICES)) {
    const value = all[name as keyof typeof CHOICES]
    if (!(allowed as readonly unknown[]).includes(value))
      throw invalid(
        name,
        `is ${JSON.stringify(value)}`,
        allowed.map((one) => JSON.stringify(one)).join(' or '),
      )
  }
  if (all.retentionMs < all.deduplicationMs)
    throw invalid('retentionMs', `is ${all.retentionMs}`, `at least deduplicationMs, ${all.deduplicationMs}`)
  return { ...all, url: new PostgresUrl(url) }
}

const invalid = (name: string, problem: string, allowed: string): EscrowError =>
  new EscrowError('invalidArgument', `postgresQueue: ${name} ${problem}; it may be ${allowed}`)
