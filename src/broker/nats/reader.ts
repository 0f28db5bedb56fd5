/**
 * One reader of a group: a durable consumer that is pulled from, on a connection of its own.
 *
 * A message that was on its way when a connection broke, or that a dead reader held, comes again only after `ackWaitMs`,
 * and what is behind it would come before it. So a reader that has connected sets aside what comes while others are
 * unacknowledged that it does not hold, and goes on in the stream's order once there are none, or that time is over:
 *
 * | state    | what comes            | leaves by                                                                 |
 * |----------|-----------------------|---------------------------------------------------------------------------|
 * | waiting  | is set aside          | nothing is unacknowledged elsewhere; or `ackWaitMs` and a little is over  |
 * | reading  | is handled            | the connection broke                                                      |
 *
 * While it holds a message, it says so (`+WPI`). What it holds unhandled at its end is free for others at once (`-NAK`).
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  AckPolicy,
  type ConsumerInfo,
  DeliverPolicy,
  JetStreamApiError,
  type JetStreamManager,
  jetstreamManager,
} from '@nats-io/jetstream'
import { type Msg, type Subscription as NatsSubscription, nanos } from '@nats-io/transport-node'
import { EscrowError } from '../../core/errors.ts'
import type { BrokerMessage, SubscribeOptions } from '../broker.ts'
import type { Connector } from '../connector.ts'
import { messageOf } from '../headers.ts'
import { Lanes } from '../lanes.ts'
import type { Reader } from '../readers.ts'
import { answered, briefly } from '../within.ts'
import type { NatsConnection } from './connection.ts'

/** What a reader is made of. */
export interface NatsReaderOptions extends SubscribeOptions {
  readonly handle: (message: BrokerMessage) => Promise<void>
  /** Of a consumer that is made here. */
  readonly ackWaitMs: number
  /** Its name. */
  readonly consumer: string
  readonly findStream: (manager: JetStreamManager) => Promise<string | undefined>
  readonly connector: Connector<NatsConnection>
}

interface Entry {
  /** Its place in the stream, and when it was stored there: one that is made anew counts from 1 again. */
  readonly identity: string
  readonly seq: number
  readonly message: BrokerMessage
  /** Where to acknowledge it; another one each time that it comes. */
  reply: string
  /** From then on the server may have its acknowledgement. */
  isHandled: boolean
}

/** Messages of a group that are unacknowledged at once. */
const ACK_PENDING_MAX = 384
const RECENT_MAX = 1_024
const PAGE = 128
const PULL_MS = 2_000
const LOOK_MS = 100
const ANSWER_MS_MAX = 10_000
const PAUSE_MS = 200
const ACK = '+ACK'
const EXPIRED = 408
const CLOSED = 0
const CONSUMER_NOT_FOUND = 10_014

/** Such a reader. */
export class NatsReader implements Reader {
  readonly #options: NatsReaderOptions
  readonly #lanes: Lanes<Entry>
  /** From when it comes until its acknowledgement is confirmed; by its identity. */
  readonly #held = new Map<string, Entry>()
  /** Acknowledged of late: a server that crashed may have forgotten that. */
  readonly #recent = new Map<string, string>()
  #handled: Entry[] = []
  #stream = ''
  #ackWaitMs: number
  readonly #ending = new AbortController()
  #acknowledging: Promise<void> | undefined
  #reading: Promise<void> = Promise.resolve()
  #heartbeat: NodeJS.Timeout | undefined
  #subscription: NatsSubscription | undefined
  #pull: Pull = { left: 0, end: () => {} }
  #roomCallback = (): void => {}
  #isSilent = false

  constructor(options: NatsReaderOptions) {
    this.#options = options
    this.#ackWaitMs = options.ackWaitMs
    this.#lanes = new Lanes({
      concurrencyMax: options.concurrencyMax ?? 16,
      keyOf: ({ message }) => message.key,
      handle: ({ message }) => options.handle(message),
      done: (entry) => this.#acknowledge(entry),
      compare: (one, other) => one.seq - other.seq,
    })
  }

  /** Makes the consumer, and begins to read. */
  async start(signal: AbortSignal): Promise<void> {
    const connection = await this.#options.connector.get(signal)
    await answered('nats', this.#makeConsumer(connection))
    this.#heartbeat = setInterval(() => this.#renew(), Math.ceil(this.#ackWaitMs / 3))
    const { connector } = this.#options
    this.#reading = connector.readUntil(this.#ending.signal, (connection) => this.#read(connection))
  }

  async #makeConsumer(connection: NatsConnection): Promise<ConsumerInfo> {
    const { topic, consumer, findStream, from, ackWaitMs } = this.#options
    const manager = await jetstreamManager(connection.client, { checkAPI: false })
    const stream = await findStream(manager)
    if (stream === undefined) throw missingStream(topic)
    this.#stream = stream
    const info =
      (await consumerOf(manager, stream, consumer)) ??
      (await manager.consumers.add(stream, {
        durable_name: consumer,
        filter_subject: topic,
        ack_policy: AckPolicy.Explicit,
        ack_wait: nanos(ackWaitMs),
        max_ack_pending: ACK_PENDING_MAX,
        max_deliver: -1,
        deliver_policy: from === 'latest' ? DeliverPolicy.New : DeliverPolicy.All,
      }))
    if (info.config.filter_subject !== topic || info.config.ack_policy !== AckPolicy.Explicit)
      throw new EscrowError(
        'brokerRefused',
        `nats: the consumer ${consumer} of ${stream} is not one of ${topic} with ack_policy explicit`,
      )
    this.#ackWaitMs = Number(info.config.ack_wait ?? nanos(ackWaitMs)) / 1e6
    return info
  }

  async #read(connection: NatsConnection): Promise<void> {
    const { client } = connection
    const inbox = `_INBOX.${randomUUID()}`
    this.#subscription = client.subscribe(`${inbox}.*`, {
      callback: (_, message) => {
        const status = message.subject.startsWith(inbox) ? (message.headers?.code ?? 0) : 0
        if (status !== 0) return this.#pull.end(status)
        this.#add(message)
        this.#pull.left -= 1
        if (this.#pull.left <= 0) this.#pull.end(EXPIRED)
      },
    })
    void client.closed().then(() => this.#pull.end(CLOSED))
    if (!(await this.#isAlone(() => answered('nats', this.#makeConsumer(connection))))) {
      this.#lanes.setAside()
      void this.#settle(connection).catch(() => this.#options.connector.drop(connection))
    } else this.#lanes.goOn()
    const next = `$JS.API.CONSUMER.MSG.NEXT.${this.#stream}.${this.#options.consumer}`
    for (let pulls = 1; !this.#ending.signal.aborted; pulls++) {
      await this.#room()
      const ended = new Promise<number>((end) => {
        this.#pull = { left: PAGE, end }
      })
      const request = JSON.stringify({ batch: PAGE, expires: nanos(PULL_MS) })
      client.publish(next, request, { reply: `${inbox}.${pulls}` })
      const status = await answered('nats', ended, PULL_MS + ANSWER_MS_MAX)
      if (status !== EXPIRED) throw new EscrowError('brokerUnavailable', `nats: reading ended with ${status}`)
    }
  }

  /** Waits until nothing is unacknowledged that it does not hold. */
  async #settle(connection: NatsConnection): Promise<void> {
    const { consumer } = this.#options
    for (const reply of this.#recent.values()) connection.client.publish(reply, ACK)
    const manager = await jetstreamManager(connection.client, { checkAPI: false })
    const until = performance.now() + this.#ackWaitMs * 1.25 + PULL_MS
    while (performance.now() < until && !this.#ending.signal.aborted) {
      await sleep(LOOK_MS)
      if (await this.#isAlone(() => manager.consumers.info(this.#stream, consumer))) break
    }
    this.#lanes.goOn()
  }

  /**
   * Whether nothing is unacknowledged but what it holds. Messages come and are acknowledged while the server answers: only
   * what is unhandled before and after was surely among what the server counted.
   */
  async #isAlone(look: () => Promise<ConsumerInfo>): Promise<boolean> {
    const before = [...this.#held.values()].filter(({ isHandled }) => !isHandled)
    const { num_ack_pending } = await look()
    return num_ack_pending <= before.filter(({ isHandled }) => !isHandled).length
  }

  #add(message: Msg): void {
    const reply = message.reply ?? ''
    // $JS.ACK.stream.consumer.deliveries.sequence.delivery.time…, newer ones with domain and account before the stream.
    const parts = reply.split('.')
    const [seq = '', , time = ''] = parts.slice(parts.length <= 9 ? 5 : 7)
    const identity = `${seq}.${time}`
    const held = this.#held.get(identity)
    if (held !== undefined) {
      held.reply = reply
      return
    }
    const entry: Entry = {
      identity,
      seq: Number(seq),
      reply,
      message: this.#toMessage(message, seq),
      isHandled: false,
    }
    this.#held.set(identity, entry)
    if (this.#recent.has(identity)) this.#acknowledge(entry)
    else this.#lanes.add(entry)
  }

  #toMessage(message: Msg, seq: string): BrokerMessage {
    const headers: Record<string, string> = {}
    for (const [name, values] of message.headers ?? [])
      if (!/^nats-/i.test(name)) headers[name] = values.join(', ')
    return messageOf(this.#options.topic, headers, message.data, { id: `${this.#stream}:${seq}`, key: '' })
  }

  /** Only where a consumer was made by somebody else, that lets more be unacknowledged. */
  async #room(): Promise<void> {
    while (this.#held.size > ACK_PENDING_MAX && !this.#ending.signal.aborted)
      await new Promise<void>((resolve) => {
        this.#roomCallback = resolve
      })
  }

  #acknowledge(entry: Entry): void {
    entry.isHandled = true
    this.#handled.push(entry)
    this.#acknowledging ??= this.#sendAcknowledgements().finally(() => {
      this.#acknowledging = undefined
    })
  }

  async #sendAcknowledgements(): Promise<void> {
    const { connector } = this.#options
    // What is handled in the same turn goes together.
    await Promise.resolve()
    while (this.#handled.length > 0 && !this.#isSilent) {
      const entries = this.#handled
      this.#handled = []
      try {
        const connection = await connector.get(AbortSignal.timeout(ANSWER_MS_MAX))
        // A consumer that is gone answers as well: there is nothing to acknowledge then.
        await answered('nats', Promise.all(entries.map(({ reply }) => connection.ask(reply, ACK))))
      } catch {
        this.#handled.unshift(...entries)
        await sleep(PAUSE_MS)
        continue
      }
      for (const { identity, reply } of entries) {
        this.#held.delete(identity)
        this.#recent.set(identity, reply)
      }
      for (const [identity] of this.#recent) {
        if (this.#recent.size <= RECENT_MAX) break
        this.#recent.delete(identity)
      }
      this.#roomCallback()
    }
  }

  /** Says that it still works at what it holds. */
  #renew(): void {
    this.#tell('+WPI')
  }

  #tell(what: string): void {
    const { current } = this.#options.connector
    try {
      for (const { reply } of this.#held.values()) current?.client.publish(reply, what)
    } catch {
      // The connection has just broken: what is held is told of on the next one.
    }
  }

  /** Reads no more, waits for the handlers, acknowledges, and leaves the rest to others. */
  async close(): Promise<void> {
    this.#end()
    await Promise.all([this.#reading, this.#lanes.close()])
    await briefly(this.#acknowledging)
    await this.#leave()
  }

  /** As `close`, without waiting for handlers. */
  async abandon(): Promise<void> {
    this.#end()
    void this.#lanes.close()
    await this.#leave()
  }

  #end(): void {
    this.#ending.abort()
    this.#roomCallback()
    this.#pull.end(EXPIRED)
  }

  async #leave(): Promise<void> {
    this.#isSilent = true
    clearInterval(this.#heartbeat)
    const { connector } = this.#options
    if (connector.current !== undefined) {
      // What it gives back would come to itself again, as long as it waits for messages.
      await briefly(this.#subscription?.drain())
      this.#tell('-NAK')
      await briefly(connector.current?.client.flush())
    }
    connector.close()
  }
}

interface Pull {
  left: number
  end(status: number): void
}

/** Undefined where it isn't there. */
export async function consumerOf(
  manager: JetStreamManager,
  stream: string,
  name: string,
): Promise<ConsumerInfo | undefined> {
  try {
    return await manager.consumers.info(stream, name)
  } catch (error) {
    if (error instanceof JetStreamApiError && error.code === CONSUMER_NOT_FOUND) return undefined
    throw error
  }
}

/** The error of a subject that no stream binds. */
export function missingStream(topic: string): EscrowError {
  return new EscrowError(
    'unknownDestination',
    `nats: no stream binds the subject ${topic}: create one, or set missingTopics to 'create'`,
  )
}
