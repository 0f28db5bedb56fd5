/** Asks RabbitMQ's management API, by HTTP, what AMQP doesn't tell. */
import { EscrowError } from '../../core/errors.ts'
import type { QueueFacts } from './topology.ts'

/** What of a queue's description is used here. Counts are some seconds old. */
interface QueueDescription {
  readonly durable?: unknown
  readonly auto_delete?: unknown
  readonly type?: unknown
  readonly members?: unknown
  readonly messages_unacknowledged?: unknown
}

const ANSWER_MS_MAX = 10_000

/** The management API of one server. */
export class RabbitManagement {
  readonly #base: URL
  readonly #vhost: string

  constructor(base: URL, vhost: string) {
    this.#base = base
    this.#vhost = vhost
  }

  /** Throws `unknownDestination`, `brokerRefused`, `brokerUnavailable`. */
  async queue(name: string, signal: AbortSignal): Promise<QueueFacts & { readonly unacknowledged: number }> {
    const found = await this.#get(
      `api/queues/${encodeURIComponent(this.#vhost)}/${encodeURIComponent(name)}`,
      signal,
    )
    const { durable, auto_delete, type, members, messages_unacknowledged } = found
    const isReplicated = type === 'quorum' || type === 'stream'
    return {
      isDurable: typeof durable === 'boolean' ? durable : undefined,
      isAutoDelete: typeof auto_delete === 'boolean' ? auto_delete : undefined,
      type: typeof type === 'string' ? type : undefined,
      members: isReplicated && Array.isArray(members) ? members.length : undefined,
      unacknowledged: typeof messages_unacknowledged === 'number' ? messages_unacknowledged : 0,
    }
  }

  async #get(path: string, signal: AbortSignal): Promise<QueueDescription> {
    const { host, protocol, pathname, username, password } = this.#base
    const base = `${protocol}//${host}${pathname.replace(/\/$/, '')}`
    const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
    const headers = { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }
    let response: Response
    try {
      const bound = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS_MAX)])
      response = await fetch(`${base}/${path}`, { headers, signal: bound, redirect: 'error' })
      if (response.ok) return (await response.json()) as QueueDescription
    } catch (error) {
      throw new EscrowError('brokerUnavailable', `RabbitMQ's management API at ${base} can not be asked`, {
        cause: error,
      })
    }
    await response.body?.cancel()
    const code = CODES[response.status] ?? 'brokerUnavailable'
    throw new EscrowError(code, `RabbitMQ's management API at ${base} answers ${response.status} to ${path}`)
  }
}

const CODES: Readonly<Record<number, 'brokerRefused' | 'unknownDestination'>> = {
  401: 'brokerRefused',
  403: 'brokerRefused',
  404: 'unknownDestination',
}
