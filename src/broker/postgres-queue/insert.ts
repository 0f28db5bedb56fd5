/** How messages get into the queue. */
import { ArrayBuilder, ELEMENT, textArray } from '../../core/postgres-arrays.ts'
import type { Statement } from '../../core/postgres-session.ts'
import type { BrokerMessage } from '../broker.ts'
import { bytesOf, headersOf } from '../headers.ts'
import type { Connection } from './connections.ts'
import { laneOf } from './schema.ts'

/** Of a body, its key and its headers together. PostgreSQL takes 1 GiB, and hands a body out as text of twice its length. */
export const MESSAGE_BYTES_MAX = 64 << 20
/** An index takes some 2,700 bytes. */
const ID_BYTES_MAX = 1_024
/** Of the messages that one statement brings; one alone may be larger. */
const STATEMENT_BYTES = 8 << 20

/** What is wrong with a message, which the queue will never take; undefined for nothing. */
export function faultOf(message: BrokerMessage): string | undefined {
  const { id } = message
  if (id === '' || Buffer.byteLength(id) > ID_BYTES_MAX || id.includes('\0'))
    return `its id is not 1 to ${ID_BYTES_MAX} bytes without U+0000`
  // Headers are counted where that can matter.
  const bytes = message.body.length > MESSAGE_BYTES_MAX / 2 ? bytesOf(message) : 0
  if (bytes > MESSAGE_BYTES_MAX) return `it has ${bytes} bytes, over the limit of ${MESSAGE_BYTES_MAX}`
  return undefined
}

/** How many messages, from the `from`th on, one statement brings. */
export function countWithin(messages: readonly BrokerMessage[], from: number): number {
  let bytes = 0
  for (let at = from; at < messages.length; at++) {
    const message = messages[at] as BrokerMessage
    bytes += message.body.length
    if (at > from && bytes > STATEMENT_BYTES) return at - from
  }
  return messages.length - from
}

/** The columns of messages: lanes, ids, headers, bodies. */
export function columnsOf(messages: readonly BrokerMessage[]): Buffer[] {
  const lanes = new ArrayBuilder(ELEMENT.int4, 32 + 8 * messages.length)
  const bodies = new ArrayBuilder(ELEMENT.bytea, 32 + 256 * messages.length)
  for (const { key, id, body } of messages) {
    lanes.int4(laneOf(key, id))
    bodies.bytea(body)
  }
  const headers = messages.map((message) => JSON.stringify(headersOf(message)))
  return [lanes.finish(), textArray(messages.map(({ id }) => id)), textArray(headers), bodies.finish()]
}

/**
 * Writes a batch into a topic, in its order, without those whose ids are there already: they were written before, by whoever
 * was told nothing of it. The transaction has its id before it takes a position: `lanes.ts` says why that must be so.
 */
const insertText = (schema: string): string => `with own as materialized (select pg_current_xact_id() as xid)
  insert into "${schema}".messages (xid, topic, lane, id, headers, body)
  select own.xid, $1::int4, m.lane::int2, m.id, m.headers::json, m.body
  from own, unnest($2::int4[], $3::text[], $4::text[], $5::bytea[]) with ordinality as m (lane, id, headers, body, n)
  order by m.n
  on conflict (id, topic) do nothing`

/** The statement that publishes, by schema. */
export const publishStatement = (schema: string): Statement => ({
  name: 'escrow_queue_publish',
  text: insertText(schema),
})

/** Publishes what one statement brings. Throws what `pg` does. */
export async function insertMessages(
  connection: Connection,
  statement: Statement,
  topic: number,
  messages: readonly BrokerMessage[],
  signal: AbortSignal,
): Promise<void> {
  await connection.run(statement, [topic, ...columnsOf(messages)], signal)
}
