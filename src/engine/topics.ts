/**
 * The topics of brokers: each is looked at before the first message for it is taken, and known from then on, also while its
 * broker is away.
 */
import type { Broker, Topic } from '../broker/broker.ts'
import { type HalfMessage, type TraceContext, traceHeaders } from '../core/envelope.ts'
import { type ErrorCode, EscrowError } from '../core/errors.ts'
import { type Destination, destinationParts } from '../core/ids.ts'
import type { MessageHead } from '../core/message.ts'
import type { Runtime } from '../core/runtime.ts'
import type { Directory } from '../store/directory.ts'

/** What the topics need. */
export interface TopicsOptions {
  readonly directory: Directory
  readonly brokers: ReadonlyMap<string, Pick<Broker, 'register' | 'faultOf'>>
  readonly runtime: Runtime
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void
}

/** What is kept of a topic. */
type Known = Pick<Topic, 'messageBytesMax' | 'isOrdered'>

const PREFIX = 'topic/'
/** How long a broker is waited for. */
const REGISTER_MS_MAX = 10_000
/** How long a refusal stands before the broker is asked again, so that a crowd doesn't ask all at once. */
const REFUSED_MS = 1_000
const TOPICS_MAX = 10_000
/** What a broker says of a topic, and no trouble of its own or of the store. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set(['unknownDestination', 'notDurable', 'brokerRefused'])
/** What is published beside body, key and headers: the id, the content type, the names of both. */
const ENVELOPE_BYTES = 512

interface Refusal {
  readonly error: EscrowError
  readonly untilMs: number
}

/** Every topic that messages were prepared for. */
export class Topics {
  readonly #options: TopicsOptions
  readonly #known = new Map<Destination, Known>()
  readonly #asked = new Map<Destination, Promise<void>>()
  readonly #refused = new Map<Destination, Refusal>()

  constructor(options: TopicsOptions) {
    this.#options = options
  }

  /** Reads those that were registered before, here or by another node. */
  async load(): Promise<void> {
    for (const { name, value } of await this.#options.directory.list(PREFIX)) {
      const { messageBytesMax, isOrdered } = JSON.parse(Buffer.from(value).toString()) as Known
      this.#known.set(name.slice(PREFIX.length) as Destination, {
        messageBytesMax: messageBytesMax ?? Number.POSITIVE_INFINITY,
        isOrdered,
      })
    }
  }

  /** Throws `unknownDestination` for a broker that isn't configured. */
  checkBroker(destination: Destination): void {
    const parts = destinationParts(destination)
    if (parts.kind === 'broker' && !this.#options.brokers.has(parts.broker)) {
      const what = `broker ${JSON.stringify(parts.broker)} is not configured`
      throw new EscrowError('unknownDestination', what)
    }
  }

  /** Whether a topic must be registered before anything is taken for it. */
  isNew(destination: Destination): boolean {
    return !this.#known.has(destination)
  }

  /**
   * Throws `tooLarge` for a size that the topic's broker would refuse, `invalidArgument` for what it can't carry, or an order
   * that it can't keep. Hot.
   */
  checkMessage(
    message: HalfMessage,
    { orderingKey, trace }: Pick<MessageHead, 'orderingKey' | 'trace'>,
  ): void {
    const { destination } = message
    const known = this.#known.get(destination)
    if (known === undefined) return
    if (orderingKey !== '' && !known.isOrdered) {
      throw new EscrowError(
        'invalidArgument',
        `destination ${destination} keeps no order: leave orderingKey out, or use an ordered topic`,
      )
    }
    const tooLarge = this.tooLarge(message, trace)
    if (tooLarge !== undefined) throw tooLarge
    const { key, contentType } = message
    const fault = this.#brokerOf(destination)?.faultOf?.({
      key,
      contentType,
      headers: { ...traceHeaders(trace), ...message.headers },
    })
    if (fault === undefined) return
    throw new EscrowError(
      'invalidArgument',
      `destination ${destination} can't carry it: ${fault}; change it, or leave it out`,
      { details: { destination } },
    )
  }

  /** Why the broker of a message would not take its size; undefined where it would, or the body is still to be fixed. Hot. */
  tooLarge({ destination, body, key, headers }: HalfMessage, trace: TraceContext): EscrowError | undefined {
    const max = this.#known.get(destination)?.messageBytesMax ?? Number.POSITIVE_INFINITY
    if (body === undefined || max === Number.POSITIVE_INFINITY) return undefined
    let bytes = body.length + Buffer.byteLength(key) + ENVELOPE_BYTES
    bytes += trace.traceparent.length + trace.tracestate.length + trace.baggage.length
    for (const name in headers) bytes += name.length + Buffer.byteLength(headers[name] as string)
    if (bytes <= max) return undefined
    return new EscrowError(
      'tooLarge',
      `a message of ${bytes} bytes, its headers among them, is over the limit of ${max} of ${destination}`,
      { details: { limit: destination, max: String(max), actual: String(bytes) } },
    )
  }

  #brokerOf(destination: Destination) {
    return this.#options.brokers.get(destination.slice(0, destination.indexOf(':')))
  }

  /** Makes a topic known, durably; those who ask at once wait for one look. Rejects as `Broker.register` does. */
  async register(destination: Destination): Promise<void> {
    const refused = this.#refused.get(destination)
    if (refused !== undefined) {
      if (this.#options.runtime.monotonic() < refused.untilMs) throw refused.error
      this.#refused.delete(destination)
    }
    let asked = this.#asked.get(destination)
    if (asked === undefined) {
      asked = this.#look(destination).finally(() => this.#asked.delete(destination))
      this.#asked.set(destination, asked)
    }
    await asked
  }

  async #look(destination: Destination): Promise<void> {
    const { directory, log, runtime } = this.#options
    if (this.#known.size + this.#asked.size > TOPICS_MAX && this.isNew(destination))
      throw new EscrowError('overloaded', `${TOPICS_MAX} topics are registered: the limit`)
    try {
      const { messageBytesMax, isOrdered, shortfalls } = await this.#askBroker(destination)
      const value = Buffer.from(JSON.stringify({ messageBytesMax, isOrdered }))
      const entry = await directory.get(PREFIX + destination)
      if (entry === undefined || !Buffer.from(entry.value).equals(value))
        await directory.compareAndSet(PREFIX + destination, entry?.version ?? 0, value)
      for (const each of shortfalls) log('warn', `${destination} may lose what it has confirmed: ${each}`)
      this.#known.set(destination, { messageBytesMax, isOrdered })
    } catch (thrown) {
      const error = EscrowError.from(thrown)
      if (this.#refused.size >= TOPICS_MAX) this.#refused.clear()
      this.#refused.set(destination, { error, untilMs: runtime.monotonic() + REFUSED_MS })
      throw error
    }
  }

  async #askBroker(destination: Destination): Promise<Topic> {
    const { runtime } = this.#options
    this.checkBroker(destination)
    const parts = destinationParts(destination)
    const broker = this.#brokerOf(destination)
    if (parts.kind !== 'broker' || broker === undefined)
      throw new EscrowError('unknownDestination', `${destination} is no topic`)
    const abort = new AbortController()
    let cancel = (): void => {}
    const late = new Promise<never>((_, reject) => {
      cancel = runtime.setTimer(() => {
        abort.abort()
        const what = `broker ${parts.broker} has not answered in ${REGISTER_MS_MAX} ms`
        reject(new EscrowError('brokerUnavailable', what))
      }, REGISTER_MS_MAX)
    })
    try {
      return await Promise.race([broker.register(parts.topic, abort.signal), late])
    } finally {
      cancel()
    }
  }

  /**
   * Looks again at all that is known, one after the other: a topic that has gone, or falls short by now, is refused from here
   * on until it is right again; a broker that is away changes nothing.
   */
  async lookAgain(isOver: () => boolean): Promise<void> {
    for (const destination of [...this.#known.keys()]) {
      if (isOver()) return
      const parts = destinationParts(destination)
      if (parts.kind !== 'broker' || !this.#options.brokers.has(parts.broker)) continue
      try {
        await this.register(destination)
      } catch (thrown) {
        const error = EscrowError.from(thrown)
        if (!REFUSALS.has(error.code) || isOver()) continue
        this.#known.delete(destination)
        this.#options.log(
          'error',
          `${destination}: ${error.message}; nothing more is taken for it. ${error.remedy}`,
        )
      }
    }
  }
}
