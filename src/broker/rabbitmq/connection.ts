/**
 * A connection to RabbitMQ that is made when it is needed, and made again after it broke.
 *
 * | state      | connection | leaves by                                                              |
 * |------------|------------|------------------------------------------------------------------------|
 * | idle       | none       | `get`: connecting; `close`: closed                                     |
 * | connecting | none       | the attempt, which all who ask share, ends: open or idle               |
 * | open       | one        | it breaks, or its heartbeat stays away: idle; `close`: closed          |
 * | closed     | none       | never                                                                  |
 *
 * amqplib alone would wait without bound for an answer, leave the socket of a dead server open, and end the process on an
 * `error` event that nobody hears; its own recovery isn't used, as it sends again by itself.
 */
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ConnectionOptions } from 'node:tls'
import { type ChannelModel, connect, type SocketOptions } from 'amqplib'
import { fullJitterMs } from '../../core/backoff.ts'
import { EscrowError } from '../../core/errors.ts'
import { isTlsCode } from '../tls.ts'
import { within } from '../within.ts'

const RECONNECT = { delayMs: 200, delayMsMax: 2_000 }
const ANSWER_MS_MAX = 10_000
const GOODBYE_MS_MAX = 1_000

/** For what only its own bound ends. */
export const NEVER: AbortSignal = new AbortController().signal

/** How to reach the servers. */
export interface ConnectionSettings {
  /** Tried in turn. */
  readonly urls: readonly URL[]
  readonly tls: ConnectionOptions
  readonly heartbeatSeconds: number
  readonly connectTimeoutMs: number
}

const unavailable = (message: string, cause?: unknown) =>
  new EscrowError('brokerUnavailable', message, { cause })

/** Waits for an answer, at most 10 s and until `signal`; then throws `brokerUnavailable`, and `late` gets what comes. */
export function inTime<T>(promise: Promise<T>, signal: AbortSignal, late?: (value: T) => void): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    let isOver = false
    const end = () => {
      isOver = true
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
    }
    const giveUp = (message: string) => {
      end()
      reject(unavailable(message))
    }
    const timer = setTimeout(() => giveUp(`RabbitMQ has not answered for ${ANSWER_MS_MAX} ms`), ANSWER_MS_MAX)
    const onAbort = () => giveUp('RabbitMQ has not answered in time')
    signal.addEventListener('abort', onAbort)
    promise.then(
      (value) => {
        if (isOver) return late?.(value)
        end()
        resolve(value)
      },
      (error) => {
        end()
        reject(error)
      },
    )
    if (signal.aborted) onAbort()
  })
}

/** A connection as it is while it lasts. */
export class OpenConnection {
  readonly model: ChannelModel
  /** Of the server, such as `3.10.8`. */
  readonly version: string
  /** Why it has ended. */
  reason = ''
  #blocked: { readonly why: string; readonly over: Promise<void>; readonly end: () => void } | undefined

  constructor(model: ChannelModel, onEnd: () => void) {
    this.model = model
    this.version = model.connection.serverProperties.version
    model.on('error', (error) => {
      this.reason ||= error.message
    })
    model.on('close', (error?: Error) => {
      this.reason ||= error?.message ?? 'the connection was closed'
      this.#unblock()
      onEnd()
      // amqplib ends its side only: a server that is dead would never end the other one.
      setTimeout(() => this.destroy(), GOODBYE_MS_MAX).unref()
    })
    model.on('blocked', (why) => {
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#blocked ??= { why, over: promise, end: resolve }
    })
    model.on('unblocked', () => this.#unblock())
  }

  #unblock(): void {
    this.#blocked?.end()
    this.#blocked = undefined
  }

  /** Waits while the server takes no messages, as it does when memory or disk is short. Throws `brokerUnavailable` after `signal`. */
  async whenUnblocked(signal: AbortSignal): Promise<void> {
    while (this.#blocked !== undefined) {
      const { why, over } = this.#blocked
      await within(over, signal, () => unavailable(`RabbitMQ takes no messages now: ${why}`))
    }
  }

  destroy(): void {
    const { stream } = this.model.connection as unknown as { stream: Duplex }
    // With an error, so that amqplib stops its heartbeat as well.
    if (!stream.destroyed) stream.destroy(new Error('the connection was closed'))
  }

  async close(): Promise<void> {
    const closed = this.model.close().catch(() => {})
    await Promise.race([closed, sleep(GOODBYE_MS_MAX, undefined, { ref: false })])
    this.destroy()
  }
}

/** A connection that comes back. */
export class RabbitConnection {
  readonly #settings: ConnectionSettings
  #open: OpenConnection | undefined
  #attempt: Promise<OpenConnection> | undefined
  #failures = 0
  #urlAt = 0
  readonly #closing = new AbortController()

  constructor(settings: ConnectionSettings) {
    this.#settings = settings
  }

  /** Throws `brokerUnavailable` or `brokerRefused`; at the latest at `signal`, or after one attempt at each server. */
  async get(signal: AbortSignal): Promise<OpenConnection> {
    if (this.#closing.signal.aborted) throw unavailable('the broker is closed')
    if (this.#open !== undefined) return this.#open
    if (this.#attempt === undefined) {
      const attempt = this.#connect().finally(() => {
        this.#attempt = undefined
      })
      attempt.catch(() => {})
      this.#attempt = attempt
    }
    return await within(this.#attempt, signal, () => unavailable('RabbitMQ can not be reached in time'))
  }

  async #connect(): Promise<OpenConnection> {
    const closing = this.#closing.signal
    if (this.#failures > 0) {
      const pauseMs = fullJitterMs(RECONNECT, this.#failures, Math.random())
      await sleep(pauseMs, undefined, { signal: closing }).catch(() => {})
    }
    const { urls } = this.#settings
    let failure: EscrowError | undefined
    for (let tries = 0; tries < urls.length && !closing.aborted; tries++) {
      const url = urls[this.#urlAt % urls.length]!
      try {
        return this.#opened(await this.#dial(url))
      } catch (error) {
        failure = connectFailure(url, error)
        this.#urlAt += 1
      }
    }
    this.#failures += 1
    throw failure ?? unavailable('the broker is closed')
  }

  async #dial(url: URL): Promise<ChannelModel> {
    const { tls, heartbeatSeconds, connectTimeoutMs } = this.#settings
    const dialing = new AbortController()
    const stop = () => dialing.abort()
    this.#closing.signal.addEventListener('abort', stop)
    // amqplib's own time-out counts from the last byte; this one bounds the whole.
    const timer = setTimeout(stop, connectTimeoutMs)
    const socket: SocketOptions & { signal: AbortSignal } = {
      ...tls,
      noDelay: true,
      keepAlive: true,
      timeout: connectTimeoutMs,
      clientProperties: { connection_name: 'escrow' },
      signal: dialing.signal,
    }
    const target = {
      protocol: url.protocol.slice(0, -1),
      hostname: url.hostname.replace(/^\[|\]$/g, ''),
      ...(url.port !== '' && { port: Number(url.port) }),
      username: decodeURIComponent(url.username) || 'guest',
      password: url.username === '' ? 'guest' : decodeURIComponent(url.password),
      vhost: url.pathname.slice(1),
      heartbeat: heartbeatSeconds,
    }
    try {
      return await connect(target, socket)
    } catch (error) {
      if (dialing.signal.aborted) throw new Error(`no answer within ${connectTimeoutMs} ms`)
      throw error
    } finally {
      clearTimeout(timer)
      this.#closing.signal.removeEventListener('abort', stop)
    }
  }

  #opened(model: ChannelModel): OpenConnection {
    const connection = new OpenConnection(model, () => {
      if (this.#open === connection) this.#open = undefined
    })
    if (this.#closing.signal.aborted) {
      connection.destroy()
      throw new Error('the broker is closed')
    }
    this.#failures = 0
    this.#open = connection
    return connection
  }

  async close(): Promise<void> {
    this.#closing.abort()
    await this.#attempt?.catch(() => {})
    await this.#open?.close()
  }
}

/** What RabbitMQ refuses for good, by the words of its handshake. An unknown virtual host ends it where `open` was expected. */
const REFUSED = /terminated by server: (403|530)|Expected ConnectionOpenOk|SASL mechanism/

function connectFailure(url: URL, thrown: unknown): EscrowError {
  const error = thrown as NodeJS.ErrnoException
  const isRefused = REFUSED.test(error.message) || isTlsCode(error.code)
  // A connection to `localhost` fails for several addresses at once, with an empty message.
  const [told = ''] = (error.message || error.code || 'no connection').split('\n')
  const isVhost = told.startsWith('Expected ConnectionOpenOk')
  const text = isVhost ? 'the virtual host is not there, or not for this user' : told
  const where = `${url.protocol}//${url.host}${url.pathname}`
  return new EscrowError(isRefused ? 'brokerRefused' : 'brokerUnavailable', `RabbitMQ at ${where}: ${text}`, {
    cause: thrown,
  })
}
