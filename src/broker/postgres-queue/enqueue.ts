/** The outbox: a service writes messages into the queue on its own transaction. */
import { randomUUID } from 'node:crypto'
import { EscrowError } from '../../core/errors.ts'
import { textArray } from '../../core/postgres-arrays.ts'
import { postgresCode } from '../../core/postgres-failure.ts'
import type { BrokerMessage } from '../broker.ts'
import { bytesOf } from '../headers.ts'
import { columnsOf, faultOf, MESSAGE_BYTES_MAX } from './insert.ts'
import { DEFAULT_SCHEMA, SCHEMA, SCHEMA_ALLOWED } from './schema.ts'

/** A `Client` or a `PoolClient` of `pg`, as far as it is used here. A pool is none: each of its statements is a transaction. */
export interface EnqueueClient {
  query(text: string, values: unknown[]): Promise<{ readonly rows: readonly unknown[] }>
  /** `T` while a transaction is open, `E` once it has failed. */
  getTransactionStatus(): string | null
}

/** A message to enqueue. */
export interface EnqueuedMessage {
  /** A topic that is registered. */
  readonly topic: string
  readonly body: Uint8Array
  /** Stable over whatever repeats the transaction: the same id again, while it is remembered, enqueues nothing. Default: a new one. */
  readonly id?: string | undefined
  /** Messages of one key are received in the order in which they were enqueued. Default: none. */
  readonly key?: string | undefined
  /** With `traceparent`, for a trace to go on at the consumer. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Default `application/json`. */
  readonly contentType?: string | undefined
}

/** How messages are enqueued. */
export interface EnqueueOptions {
  /** The queue's. Default `escrow_queue`. */
  readonly schema?: string | undefined
  /**
   * Wakes the readers at COMMIT, who otherwise look within `pollMs`. Commits that notify wait for each other on the whole
   * server, so that is for a service of few transactions. Default false.
   */
  readonly notify?: boolean | undefined
}

/**
 * Enqueues messages on the caller's own open transaction: they are received if, and only if, it commits. The row is the
 * outbox, so neither a half message nor a check-back is needed: use it where the business rows and the queue are in one
 * database. Use `sendInTransaction` where they aren't, where a message goes to another broker as well, or where it is to be
 * delayed. Needs USAGE on the schema, SELECT on `topics` and `messages`, INSERT on `messages`. In the order given, for each
 * key; one statement, so that a failure leaves nothing. Returns the ids.
 *
 * Throws `invalidArgument` and `tooLarge` for a message that can't be, `unknownDestination` (a topic that isn't registered),
 * `wouldNotShareTransaction` (no transaction is open on the client), and what `pg` throws, after which the transaction can
 * only be rolled back.
 */
export async function enqueue(
  client: EnqueueClient,
  messages: EnqueuedMessage | readonly EnqueuedMessage[],
  { schema = DEFAULT_SCHEMA, notify = false }: EnqueueOptions = {},
): Promise<readonly string[]> {
  const complete = (
    Array.isArray(messages) ? (messages as readonly EnqueuedMessage[]) : [messages as EnqueuedMessage]
  ).map(completed)
  if (!SCHEMA.test(schema))
    throw new EscrowError('invalidArgument', `schema ${JSON.stringify(schema)} is not ${SCHEMA_ALLOWED}`)
  const status = client.getTransactionStatus?.()
  // E: it has failed, as PostgreSQL says better.
  if (status !== 'T' && status !== 'E')
    throw new EscrowError(
      'wouldNotShareTransaction',
      'no transaction is open on the client: nothing was enqueued; await its BEGIN, and enqueue on the client that it is open on',
    )
  if (complete.length === 0) return []
  const values = [textArray(complete.map(({ topic }) => topic)), ...columnsOf(complete), notify, schema]
  const { rows } = await client.query(enqueueText(schema), values).catch((error: unknown) => {
    throw enqueueFailure(error, schema)
  })
  const { missing } = rows[0] as { missing: string | null }
  if (missing !== null)
    throw new EscrowError(
      'unknownDestination',
      `topic ${JSON.stringify(missing)} is not in the queue of schema ${schema}: nothing was enqueued; register it, with missingTopics: 'create'`,
    )
  return complete.map(({ id }) => id)
}

function completed(given: EnqueuedMessage): BrokerMessage {
  const { topic, body, id = randomUUID(), key = '', headers = {}, contentType = 'application/json' } = given
  const message: BrokerMessage = { topic, body, id, key, headers, contentType }
  const fault = faultOf(message)
  if (fault === undefined) return message
  const code = bytesOf(message) > MESSAGE_BYTES_MAX ? 'tooLarge' : 'invalidArgument'
  throw new EscrowError(code, `message ${JSON.stringify(id.slice(0, 100))}: ${fault}`)
}

/** A topic that is missing keeps all from being written. */
const enqueueText = (
  schema: string,
): string => `with own as materialized (select pg_current_xact_id() as xid),
  given as materialized (
    select g.*, t.topic from unnest($1::text[], $2::int4[], $3::text[], $4::text[], $5::bytea[])
      with ordinality as g (name, lane, id, headers, body, n) left join "${schema}".topics t on t.name = g.name),
  missing as materialized (select min(name) as name from given where topic is null),
  written as (
    insert into "${schema}".messages (xid, topic, lane, id, headers, body)
    select own.xid, g.topic, g.lane::int2, g.id, g.headers::json, g.body
    from own cross join missing cross join given g where missing.name is null order by g.n
    on conflict (id, topic) do nothing returning topic)
  select missing.name as missing, (
    select count(pg_notify($7, 'm' || w.topic)) from (select distinct topic from written) w where $6::boolean) as notified
  from missing`

function enqueueFailure(error: unknown, schema: string): unknown {
  const code = postgresCode(error)
  if (code !== '42P01' && code !== '3F000') return error
  return new EscrowError(
    'unknownDestination',
    `schema ${schema} has no queue: register a topic first, with missingTopics: 'create'`,
    { cause: error },
  )
}
