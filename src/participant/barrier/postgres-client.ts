import { EscrowError } from '../../core/errors.ts'

/** What a statement answers, as `pg` has it. Several statements in one text answer a list. */
export interface QueryResult {
  readonly command: string
  readonly rowCount: number | null
  // biome-ignore lint/suspicious/noExplicitAny: a row is what its statement says; the statements stand beside their readers.
  readonly rows: readonly any[]
}

/**
 * One connection: `pg`'s `Client` or `PoolClient`, or anything with their query shape. A text without values may hold several
 * statements, which answer a list of results.
 */
export interface PostgresClient {
  query(text: string, values?: unknown[]): Promise<unknown>
}

/** A pool of connections: `pg`'s `Pool`, or anything with its shape. */
export interface PostgresPool {
  // biome-ignore lint/suspicious/noExplicitAny: pg overloads `connect` with a callback form, which hides the client's type.
  connect(): Promise<any>
}

/** The client that a pool gives, or the client itself. */
export type ClientOf<C> = C extends { release: unknown }
  ? C
  : C extends { totalCount: number; connect: { (): Promise<infer P>; (callback: never): void } }
    ? P
    : C extends { connect(): Promise<infer P> }
      ? P extends PostgresClient
        ? P
        : C
      : C

/** A connection for one transaction, and the way to give it back. */
export interface Checkout {
  readonly client: PostgresClient
  /** Gives it back; after a broken conversation it is destroyed instead, so that nobody inherits an open transaction. */
  release(broken: boolean): void
}

/** Takes a connection from a pool, or uses the caller's own. Rejects with the pool's error. */
export async function checkOut(connection: PostgresClient | PostgresPool): Promise<Checkout> {
  if (!isPool(connection)) {
    const forget = hearErrors(connection)
    return { client: connection, release: forget }
  }
  const client = (await connection.connect()) as PostgresClient & { release(destroy?: boolean): void }
  const forget = hearErrors(client)
  return {
    client,
    release(broken) {
      forget()
      client.release(broken)
    },
  }
}

// pg tells a lost connection twice: the statement in flight is rejected, and the client emits `error`, which ends the
// process when nobody listens. A pool listens only while the client is idle.
function hearErrors(client: PostgresClient): () => void {
  const emitter = client as {
    on?: (event: string, listener: () => void) => void
    off?: (event: string, listener: () => void) => void
  }
  const listener = (): void => {}
  emitter.on?.('error', listener)
  return () => emitter.off?.('error', listener)
}

// A pool's own `query` takes any connection for each statement: no transaction would hold together on it.
function isPool(connection: PostgresClient | PostgresPool): connection is PostgresPool {
  const shape = connection as {
    connect?: unknown
    release?: unknown
    totalCount?: unknown
    connection?: unknown
  }
  if (typeof shape.connect !== 'function' || typeof shape.release === 'function') return false
  // pg's Client has a `connect` too, but no count of connections, and it knows its one wire.
  return shape.totalCount !== undefined || shape.connection === undefined
}

/** Sends several statements in one text: one round trip. Answers one result for each. */
export async function sendText(client: PostgresClient, text: string): Promise<readonly QueryResult[]> {
  const results = (await client.query(text)) as QueryResult | readonly QueryResult[]
  return Array.isArray(results) ? results : [results as QueryResult]
}

/**
 * The SQLSTATE that the server ended a statement with, or undefined when nobody knows what the server did: the connection
 * was lost, a client-side time-out passed, the server or a pooler in between was shutting down.
 *
 * A lost socket's `EPIPE` has five capital letters too, so the severity that only the server tells is asked for as well.
 */
export function sqlState(error: unknown): string | undefined {
  const { code, severity } = (error ?? {}) as { code?: unknown; severity?: unknown }
  if (typeof code !== 'string' || typeof severity !== 'string' || !/^[0-9A-Z]{5}$/.test(code))
    return undefined
  // 08 connection exception, 57P shutting down, 40003 statement completion unknown.
  return /^(08|57P)|^40003$/.test(code) ? undefined : code
}

/** A string constant. The escape form has one meaning under every setting; NUL has no form in PostgreSQL. */
export function literal(value: string): string {
  if (value.includes('\0'))
    throw new EscrowError('invalidArgument', 'a text with a NUL character cannot be stored in PostgreSQL')
  return `E'${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}

/** A bytea constant. */
export function bytesLiteral(bytes: Uint8Array): string {
  return `'\\x${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')}'::bytea`
}

/** A name, quoted. */
export function identifier(name: string): string {
  if (name === '' || name.includes('\0'))
    throw new EscrowError('invalidArgument', `${JSON.stringify(name)} is not a name in PostgreSQL`)
  return `"${name.replaceAll('"', '""')}"`
}
