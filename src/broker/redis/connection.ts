/** One connection to Redis, which is never made again by the library, and what Redis' errors mean. */
import type { ConnectionOptions as TlsOptions } from 'node:tls'
import { createClient, ErrorReply, MultiErrorReply, RESP_TYPES } from '@redis/client'
import { EscrowError } from '../../core/errors.ts'
import type { Connection } from '../connector.ts'
import { isTlsCode } from '../tls.ts'

/** Where a Redis is, and who asks. */
export interface RedisAddress {
  readonly host: string
  readonly port: number
  readonly username: string | undefined
  readonly password: string | undefined
  readonly database: number
  readonly tls: TlsOptions | undefined
  /** For the connection and its first answers; milliseconds. */
  readonly connectTimeoutMs: number
}

/** What Redis answers: an error inside of an array is a value, one alone rejects. */
export type Reply = string | number | null | Buffer | ErrorReply | readonly Reply[]

export { ErrorReply }

/** Such a connection. */
export class RedisConnection implements Connection {
  readonly #client: ReturnType<typeof newClient>
  /** Such as `7.0.15`. */
  version = ''

  private constructor(client: ReturnType<typeof newClient>) {
    this.#client = client
  }

  /**
   * Connects to a primary that takes commands. Rejects with `brokerRefused` (credentials, permissions, TLS, a cluster),
   * `brokerUnavailable` (no server, a replica, still loading, too slow).
   */
  static async open(address: RedisAddress): Promise<RedisConnection> {
    const client = newClient(address)
    // Whoever waits for an answer is told; without a listener, the event would end the process.
    client.on('error', () => {})
    let isLate = false
    // A handshake that isn't answered has no bound of its own.
    const timer = setTimeout(() => {
      isLate = true
      client.destroy()
    }, address.connectTimeoutMs)
    try {
      await client.connect()
      const connection = new RedisConnection(client)
      await connection.#greet()
      return connection
    } catch (thrown) {
      client.destroy()
      if (isLate)
        throw new EscrowError('brokerUnavailable', `redis: no answer within ${address.connectTimeoutMs} ms`)
      throw redisError(thrown)
    } finally {
      clearTimeout(timer)
    }
  }

  async #greet(): Promise<void> {
    const [hello] = await Promise.all([
      this.send(['HELLO']),
      // Refused while it loads its data. Who may not send PING is connected all the same.
      this.send(['PING']).catch((error: Error) => {
        if (codeOf(error) !== 'NOPERM') throw error
      }),
    ])
    const facts = pairs(hello)
    this.version = facts.get('version') ?? ''
    if (facts.get('mode') === 'cluster')
      throw new EscrowError(
        'brokerRefused',
        'redis: this is a node of a Redis Cluster, which is not supported',
      )
    if (facts.get('role') !== 'master')
      throw new EscrowError(
        'brokerUnavailable',
        'redis: this is a replica, which takes no messages (READONLY)',
      )
  }

  get isOpen(): boolean {
    return this.#client.isReady
  }

  /** Commands that are sent in one turn leave together. Rejects with the library's own errors. */
  send(command: readonly (string | Buffer)[]): Promise<Reply> {
    return this.#client.sendCommand(command as string[])
  }

  /** As `send`; texts come as bytes. */
  sendForBytes(command: readonly string[]): Promise<Reply> {
    return this.#client.sendCommand(command as string[], {
      typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer },
    })
  }

  /** All of them are carried out, one after the other and nothing between, or none is: then it rejects. */
  async transact(commands: readonly (readonly (string | Buffer)[])[]): Promise<readonly Reply[]> {
    const multi = this.#client.multi()
    for (const each of commands) multi.addCommand(each as string[])
    try {
      return (await multi.exec()) as unknown as Reply[]
    } catch (error) {
      if (error instanceof MultiErrorReply) return error.replies as Reply[]
      throw error
    }
  }

  destroy(): void {
    this.#client.destroy()
  }
}

function newClient({ host, port, username, password, database, tls, connectTimeoutMs }: RedisAddress) {
  const address = { host, port, connectTimeout: connectTimeoutMs, reconnectStrategy: false } as const
  return createClient({
    RESP: 2,
    socket: tls === undefined ? address : { ...tls, ...address, tls: true },
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    database,
    // A connection that broke is thrown away with all that was under way on it: nothing waits to be sent again.
    disableOfflineQueue: true,
    maintNotifications: 'disabled',
    // Default: a timer for each command, which bounds only the time until it is written.
    commandOptions: { timeout: 0 },
  })
}

/** An answer of names and values, one after the other. */
export function pairs(reply: Reply): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  if (!Array.isArray(reply)) return found
  for (let at = 0; at + 1 < reply.length; at += 2) found.set(String(reply[at]), String(reply[at + 1]))
  return found
}

/** Several of them. */
export function records(reply: Reply): readonly ReadonlyMap<string, string>[] {
  return Array.isArray(reply) ? reply.map(pairs) : []
}

/** The first word of an error of the server, such as `OOM`; empty for any other error. */
export function codeOf(thrown: unknown): string {
  return thrown instanceof ErrorReply ? (/^[A-Z]+\b/.exec(thrown.message)?.[0] ?? '') : ''
}

/** What passes by itself, or after somebody has looked after the server. */
const PASSING = [
  'LOADING',
  'READONLY',
  'MASTERDOWN',
  'BUSY',
  'TRYAGAIN',
  'OOM',
  'MISCONF',
  'NOREPLICAS',
  'UNBLOCKED',
]

/** The error of Escrow for what the library or the server said; total. */
export function redisError(thrown: unknown): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const { code = '', message } = thrown instanceof Error ? (thrown as NodeJS.ErrnoException) : { message: '' }
  // An error of several addresses has no message of its own.
  const text = `redis: ${message || code || String(thrown)}`
  if (!(thrown instanceof ErrorReply))
    return new EscrowError(isTlsCode(code) ? 'brokerRefused' : 'brokerUnavailable', text, {
      cause: thrown,
    })
  const word = codeOf(thrown)
  if (word === 'WRONGTYPE') return new EscrowError('unknownDestination', text, { cause: thrown })
  const isPassing = PASSING.includes(word) || /max number of clients/.test(message)
  return new EscrowError(isPassing ? 'brokerUnavailable' : 'brokerRefused', text, { cause: thrown })
}
