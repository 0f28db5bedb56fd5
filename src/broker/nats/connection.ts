/** One connection to NATS, which is never made again by the library, and what NATS' errors mean. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { randomUUID } from 'node:crypto'
import { subscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { JetStreamApiError } from '@nats-io/jetstream'
import {
  AuthorizationError,
  ConnectionError,
  connect,
  type Msg,
  type MsgHdrs,
  type NatsConnection as NatsClient,
  PermissionViolationError,
  type TlsOptions,
} from '@nats-io/transport-node'
import { EscrowError } from '../../core/errors.ts'
import type { Connection } from '../connector.ts'
import { isTlsCode } from '../tls.ts'

/** Where NATS is, and who asks. */
export interface NatsAddress {
  readonly servers: readonly string[]
  readonly user: string | undefined
  readonly password: string | undefined
  readonly token: string | undefined
  readonly tls: Omit<TlsOptions, 'handshakeFirst'> | undefined
  readonly connectTimeoutMs: number
}

/** A server that says nothing for twice as long is given up. */
const PING_MS = 5_000
const PINGS_MAX = 2

/**
 * The sockets of each connection that is being made. Where the library gives up on a server that is silent, it forgets the
 * socket and leaves it open.
 */
const sockets = new AsyncLocalStorage<Socket[]>()
subscribe('net.client.socket', (event) => {
  sockets.getStore()?.push((event as { readonly socket: Socket }).socket)
})

interface Waiter {
  readonly subject: string
  resolve(answer: Msg): void
  reject(error: Error): void
}

/** Such a connection. */
export class NatsConnection implements Connection {
  readonly client: NatsClient
  readonly #sockets: readonly Socket[]
  readonly #waiting = new Map<string, Waiter>()
  readonly #inbox = `_INBOX.${randomUUID()}`
  #asked = 0
  isOpen = true

  private constructor(client: NatsClient, opened: readonly Socket[]) {
    this.client = client
    this.#sockets = opened
    client.subscribe(`${this.#inbox}.*`, { callback: (_, answer) => this.#answered(answer) })
    void client.closed().then((why) => this.#end(why instanceof Error ? why : undefined))
    void this.#watch()
  }

  /** Rejects with `brokerRefused` (credentials, TLS) or `brokerUnavailable`. */
  static async open(address: NatsAddress): Promise<NatsConnection> {
    const { servers, user, password, token, tls, connectTimeoutMs } = address
    const opened: Socket[] = []
    try {
      const client = await sockets.run(opened, () =>
        connect({
          servers: [...servers],
          ...(user !== undefined && { user }),
          ...(password !== undefined && { pass: password }),
          ...(token !== undefined && { token }),
          ...(tls !== undefined && { tls }),
          timeout: connectTimeoutMs,
          reconnect: false,
          maxReconnectAttempts: 0,
          ignoreClusterUpdates: true,
          pingInterval: PING_MS,
          maxPingOut: PINGS_MAX,
          noAsyncTraces: true,
        }),
      )
      return new NatsConnection(client, opened)
    } catch (thrown) {
      for (const each of opened) each.destroy()
      throw natsError(thrown)
    }
  }

  /** Of a message, its headers as they are written included. */
  get payloadBytesMax(): number {
    return this.client.info?.max_payload ?? Number.POSITIVE_INFINITY
  }

  /**
   * Publishes, and waits for an answer as long as the connection lives. Throws at once where nothing was sent, and rejects
   * where that isn't known.
   */
  ask(subject: string, body: Uint8Array | string, headers?: MsgHdrs): Promise<Msg> {
    const token = String(++this.#asked)
    const reply = `${this.#inbox}.${token}`
    this.client.publish(subject, body, headers === undefined ? { reply } : { reply, headers })
    return new Promise((resolve, reject) => this.#waiting.set(token, { subject, resolve, reject }))
  }

  #answered(answer: Msg): void {
    const token = answer.subject.slice(this.#inbox.length + 1)
    const waiter = this.#waiting.get(token)
    this.#waiting.delete(token)
    waiter?.resolve(answer)
  }

  /** What isn't permitted is told about a subject, and not to the one who asked. */
  async #watch(): Promise<void> {
    for await (const status of this.client.status()) {
      const error = status.type === 'error' ? status.error : undefined
      if (!(error instanceof PermissionViolationError)) continue
      for (const [token, waiter] of this.#waiting) {
        if (waiter.subject !== error.subject) continue
        this.#waiting.delete(token)
        waiter.reject(error)
      }
    }
  }

  #end(why: Error | undefined): void {
    this.isOpen = false
    const error = why ?? new ConnectionError('the connection is closed')
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }

  destroy(): void {
    this.isOpen = false
    // Before the library has a chance to write what it still holds.
    for (const each of this.#sockets) each.destroy()
    this.client.close().catch(() => {})
    this.#end(undefined)
  }
}

/** The error of Escrow for what the library or the server said; total. */
export function natsError(thrown: unknown): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const { code, message } = thrown instanceof Error ? (thrown as NodeJS.ErrnoException) : { message: '' }
  const text = `nats: ${message || code || 'the connection broke'}`
  const isRefused =
    thrown instanceof AuthorizationError ||
    thrown instanceof PermissionViolationError ||
    (thrown instanceof JetStreamApiError && thrown.status < 500) ||
    isTlsCode(code)
  if (thrown instanceof Error && thrown.name === 'JetStreamNotEnabled')
    return new EscrowError('brokerUnavailable', 'nats: JetStream does not answer: see that it is enabled', {
      cause: thrown,
    })
  return new EscrowError(isRefused ? 'brokerRefused' : 'brokerUnavailable', text, { cause: thrown })
}
