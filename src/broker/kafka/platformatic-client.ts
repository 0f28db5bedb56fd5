/** What every client of @platformatic/kafka needs here: see `kafka-platformatic.ts`. */
import {
  type Admin,
  type BaseOptions,
  type ConnectionPool,
  type Consumer,
  kGetBootstrapConnection,
  type Producer,
} from '@platformatic/kafka'
import { isTlsCode } from '../tls.ts'
import type { KafkaSettings } from './options.ts'
import type { Trouble } from './topics.ts'

const CONNECT_MS_MAX = 5_000
const REQUEST_MS_MAX = 30_000
const METADATA_MS_MAX = 60_000
const RETRY_MS_MAX = 500
/** Of a question that decides whether the cluster can be reached; each goes to the next broker. */
export const TRIES_MAX = 3

interface Failure {
  readonly message?: string
  readonly code?: unknown
  readonly apiId?: string
  readonly cause?: unknown
  readonly errors?: readonly unknown[]
}

/** The reason stands inside: errors of attempts hold those of brokers, which hold those of sockets. */
export function troubleOf(thrown: unknown): Trouble {
  const { message = String(thrown), code, apiId, cause, errors } = (thrown ?? {}) as Failure
  if (typeof apiId === 'string') return { type: apiId, message }
  if (code === 'PLT_KFK_AUTHENTICATION') return { type: 'SASL_AUTHENTICATION_FAILED', message }
  if (isTlsCode(code)) return { type: 'TLS', message }
  // The library has a text of its own for this one, and no code.
  if (message.startsWith('Unknown topic ')) return { type: 'UNKNOWN_TOPIC_OR_PARTITION', message }
  const inner = errors?.at(-1) ?? cause
  return inner === undefined ? { type: '', message } : troubleOf(inner)
}

/** The options of a client. */
export function baseOptions({ brokers, clientId, tls, sasl }: KafkaSettings): BaseOptions {
  return {
    clientId,
    bootstrapBrokers: [...brokers],
    autocreateTopics: false,
    connectTimeout: CONNECT_MS_MAX,
    requestTimeout: REQUEST_MS_MAX,
    timeout: REQUEST_MS_MAX,
    metadataMaxAge: METADATA_MS_MAX,
    retries: brokers.length,
    retryDelay: (_, __, attempt) =>
      Math.min(RETRY_MS_MAX, 25 * 2 ** Math.min(attempt, 10)) * (0.5 + Math.random() / 2),
    ...(tls && { tls, tlsServerName: true }),
    ...(sasl && {
      sasl: {
        mechanism: sasl.mechanism.toUpperCase() as 'PLAIN' | 'SCRAM-SHA-256' | 'SCRAM-SHA-512',
        username: sasl.username,
        password: sasl.password,
      },
    }),
  }
}

/** A client's connections, as a link needs them. */
export class Connections {
  readonly #pools: ConnectionPool[] = []
  isBroken = false

  constructor(client: Producer | Admin | Consumer) {
    this.watch(client.connections)
    const ask = client[kGetBootstrapConnection].bind(client)
    let turn = 0
    // Many of the library's questions go to the first broker that takes a connection, at each attempt: one that hangs, or
    // whose proxy takes connections for it, would keep everything from the others. So they take turns.
    client[kGetBootstrapConnection] = (callback) => ask(callback, turn++)
  }

  watch(pool: ConnectionPool): void {
    this.#pools.push(pool)
    // A connection that fails a second time has nobody left who listens, which would end the process.
    pool.on('connecting', ({ connection }) => connection.on('error', () => {}))
    pool.on('disconnect', () => {
      this.isBroken = true
    })
  }

  /** Closing waits until a peer has read everything, which it may never do. */
  destroy(): void {
    this.isBroken = true
    for (const pool of this.#pools) {
      for (const [, connection] of pool) connection.socket?.destroy()
    }
  }
}
