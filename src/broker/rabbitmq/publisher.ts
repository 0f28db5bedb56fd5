/**
 * Publishes on one confirm channel a topic: what closes a channel (an exchange that is gone, a message that is too
 * large) fails the messages of that topic alone, and a queue without a majority holds up no other.
 *
 * | a message is                       | when the batch ends      | after the channel has closed |
 * |------------------------------------|--------------------------|------------------------------|
 * | not written                        | unreachable              | unreachable                  |
 * | written                            | failed                   | failed                       |
 * | written, returned, then confirmed  | failed, with the reason  |                              |
 * | written, then nacked               | failed                   |                              |
 * | written, then confirmed            | published                |                              |
 */
import { type ConfirmChannel, IllegalOperationError } from 'amqplib'
import { EscrowError } from '../../core/errors.ts'
import type { BrokerMessage, MessageText, PublishOutcome } from '../broker.ts'
import { bytesOf, headersOf } from '../headers.ts'
import { inTime, NEVER, type OpenConnection, type RabbitConnection } from './connection.ts'
import { type Address, addressOf } from './topology.ts'

/** Topics whose channels stay open; the server allows 2,047 channels a connection. */
const LANES_MAX = 256
/** Frames that amqplib holds before it asks for a pause: a batch of 512 small messages is one each. */
const FRAMES_MAX = 1_024
/** How long a channel may owe confirmations to batches that have ended, before another one takes its place. */
const SILENT_MS_MAX = 30_000
/** In amqplib's words. */
const NACK = 'message nacked'
const PUBLISHED: PublishOutcome = { outcome: 'published' }

/** The size that the server takes, as far as it is known. */
export interface SizeLimit {
  bytesMax: number
}

/** Publishes the batches of all topics over one connection. */
export class RabbitPublisher {
  readonly #connection: RabbitConnection
  readonly #limit: SizeLimit
  readonly #lanes = new Map<string, Promise<Lane>>()

  constructor(connection: RabbitConnection, limit: SizeLimit) {
    this.#connection = connection
    this.#limit = limit
  }

  async publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    if (batch.length === 0) return []
    let lane: Lane
    try {
      lane = await this.#lane(batch[0]!.topic, signal)
      await lane.whenClear(signal)
    } catch (error) {
      const { message } = EscrowError.from(error)
      return batch.map(() => ({ outcome: 'unreachable', error: message }))
    }
    return await lane.send(batch, signal)
  }

  async #lane(topic: string, signal: AbortSignal): Promise<Lane> {
    const there = this.#lanes.get(topic)
    if (there !== undefined) {
      // The last in the map is the one used last.
      this.#lanes.delete(topic)
      this.#lanes.set(topic, there)
      return await inTime(there, signal)
    }
    const connection = await this.#connection.get(signal)
    await connection.whenUnblocked(signal)
    this.#makeRoom()
    const opening = this.#lanes.get(topic) ?? this.#open(topic, connection)
    this.#lanes.set(topic, opening)
    return await inTime(opening, signal)
  }

  #open(topic: string, connection: OpenConnection): Promise<Lane> {
    const address = addressOf(topic)
    const forget = () => {
      if (this.#lanes.get(topic) === opening) this.#lanes.delete(topic)
    }
    const opening = inTime(
      connection.model.createConfirmChannel({ highWaterMark: FRAMES_MAX }),
      NEVER,
      (channel) => void channel.close().catch(() => {}),
    ).then((channel) => new Lane({ connection, channel, address, limit: this.#limit, onClose: forget }))
    opening.catch(forget)
    return opening
  }

  #makeRoom(): void {
    if (this.#lanes.size < LANES_MAX) return
    const [topic, lane] = this.#lanes.entries().next().value!
    this.#lanes.delete(topic)
    lane.then((each) => each.retire()).catch(() => {})
  }
}

interface LaneOptions {
  readonly connection: OpenConnection
  readonly channel: ConfirmChannel
  readonly address: Address
  readonly limit: SizeLimit
  readonly onClose: () => void
}

/** One topic's channel, until it closes. */
class Lane {
  readonly #options: LaneOptions
  readonly #sendings = new Set<Sending>()
  /** Written for batches that have ended without them. */
  #unclear = 0
  #unclearSince = 0
  #isOpen = true
  #isRetired = false
  #reason = ''
  #changed = Promise.withResolvers<void>()

  constructor(options: LaneOptions) {
    this.#options = options
    const { channel, connection, limit, onClose } = options
    channel.on('error', (error) => {
      this.#reason = error.message
      const told = /message size \d+ .* max size (\d+)/.exec(error.message)
      if (told !== null) limit.bytesMax = Math.min(limit.bytesMax, Number(told[1]))
    })
    // The connection's reason comes before its channels close.
    channel.on('close', () => {
      this.#isOpen = false
      this.#reason ||= connection.reason
      onClose()
      this.#wake()
    })
    channel.on('drain', () => this.#wake())
    channel.on('return', ({ fields, properties }) => {
      const { replyText } = fields as unknown as { replyText: string }
      for (const sending of this.#sendings) sending.returned(String(properties.messageId), replyText)
    })
  }

  #wake(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }

  /** Closes it as soon as no batch is on its way. */
  retire(): void {
    this.#isRetired = true
    this.#options.onClose()
    if (this.#sendings.size === 0) this.#options.channel.close().catch(() => {})
  }

  /** Waits for what earlier batches have written: only so is the unconfirmed bounded. Throws `brokerUnavailable`. */
  async whenClear(signal: AbortSignal): Promise<void> {
    while (this.#unclear > 0 && this.#isOpen) {
      if (this.#isRetired || performance.now() - this.#unclearSince > SILENT_MS_MAX) break
      const { promise } = this.#changed
      await inTime(promise, signal).catch(() => {
        const error = `RabbitMQ has not confirmed ${this.#unclear} earlier messages yet`
        throw new EscrowError('brokerUnavailable', error)
      })
    }
    if (this.#unclear > 0 || this.#isRetired) this.retire()
    await this.#options.connection.whenUnblocked(signal)
    if (!this.#isOpen || this.#isRetired)
      throw new EscrowError('brokerUnavailable', this.#reason || 'the channel was closed')
  }

  async send(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    const sending = new Sending(batch)
    this.#sendings.add(sending)
    const giveUp = () => {
      if (this.#unclear === 0) this.#unclearSince = performance.now()
      this.#unclear += sending.giveUp('no confirmation in time')
      this.#wake()
    }
    signal.addEventListener('abort', giveUp)
    if (signal.aborted) giveUp()
    try {
      await this.#write(sending, signal)
      return await sending.ended
    } finally {
      signal.removeEventListener('abort', giveUp)
      this.#sendings.delete(sending)
      if (this.#isRetired) this.retire()
    }
  }

  async #write(sending: Sending, signal: AbortSignal): Promise<void> {
    for (const message of sending.batch) {
      if (sending.isOver) return
      if (!this.#isOpen) {
        sending.giveUp(this.#reason)
        return
      }
      if (this.#writeOne(sending, message)) continue
      await this.#changed.promise
      await this.#options.connection.whenUnblocked(signal).catch(() => {})
    }
  }

  /** Answers whether there is room for more. */
  #writeOne(sending: Sending, message: BrokerMessage): boolean {
    const { channel, address, limit } = this.#options
    const at = sending.written++
    const refused = isTooLarge(message, limit) ? tooLarge(limit) : refusedFor(faultOf(message))
    if (refused !== undefined) {
      sending.settle(at, refused)
      return true
    }
    const { body, contentType, id } = message
    const options = {
      mandatory: true,
      persistent: true,
      messageId: id,
      headers: headersOf(message),
      ...(contentType !== '' && { contentType }),
    }
    const content = Buffer.from(body.buffer, body.byteOffset, body.byteLength)
    try {
      return channel.publish(address.exchange, address.routingKey, content, options, (error: Error | null) =>
        this.#answered(sending, at, error),
      )
    } catch (error) {
      // Somebody closes the channel: it is as if it were closed.
      if (error instanceof IllegalOperationError) {
        sending.written = at
        sending.giveUp(this.#reason || error.message)
        return true
      }
      // The codec has written nothing of what it can't encode: an id above 255 bytes.
      sending.settle(at, { outcome: 'refused', error: EscrowError.from(error).message })
      return true
    }
  }

  #answered(sending: Sending, at: number, error: Error | null): void {
    // A channel that first met a quorum queue through a leader just lost says no for ever, even when there is a new one.
    if (error?.message === NACK) this.#isRetired = true
    if (sending.isOver) {
      this.#unclear -= 1
      this.#wake()
      return
    }
    sending.settle(at, this.#outcome(sending, at, error))
  }

  #outcome(sending: Sending, at: number, error: Error | null): PublishOutcome {
    const { limit, address } = this.#options
    const why = sending.returnedFor.get(at)
    if (error === null && why === undefined) return PUBLISHED
    if (error === null) return { outcome: 'failed', error: `${address.text}: ${why}` }
    if (isTooLarge(sending.batch[at]!, limit)) return tooLarge(limit)
    const reason = this.#reason || this.#options.connection.reason
    if (reason !== '') return { outcome: 'failed', error: reason }
    const isNack = error.message === NACK
    const text = `${address.text} has not taken it (nack): it is full, or has no leader now`
    return { outcome: 'failed', error: isNack ? text : error.message }
  }
}

/** What amqplib encodes of headers and all else that stands beside a body; so a small one need not be counted with them. */
const HEADER_BYTES_MAX = 65_536
/** The rest of that, and `escrow-id`. */
const OTHER_BYTES_MAX = 1_024
/** What a table has of each entry, beside name and text. */
const ENTRY_BYTES = 6

/** What RabbitMQ can't carry of a message; undefined for nothing. */
export function faultOf({ key, contentType, headers }: MessageText): string | undefined {
  let bytes = OTHER_BYTES_MAX + Buffer.byteLength(key) + 2 * contentType.length
  for (const name in headers) bytes += ENTRY_BYTES + name.length + Buffer.byteLength(headers[name] as string)
  if (bytes <= HEADER_BYTES_MAX) return undefined
  return `headers: ${bytes} bytes with key and content type, over the ${HEADER_BYTES_MAX} that fit`
}

function isTooLarge(message: BrokerMessage, { bytesMax }: SizeLimit): boolean {
  return message.body.length + HEADER_BYTES_MAX > bytesMax && bytesOf(message) > bytesMax
}

const tooLarge = ({ bytesMax }: SizeLimit): PublishOutcome => ({
  outcome: 'refused',
  error: `the server takes ${bytesMax} bytes a message (max_message_size)`,
})

const refusedFor = (fault: string | undefined): PublishOutcome | undefined =>
  fault === undefined ? undefined : { outcome: 'refused', error: `rabbitmq: ${fault}` }

/** One batch on its way. */
class Sending {
  readonly batch: readonly BrokerMessage[]
  /** Messages that were given to amqplib, or refused. */
  written = 0
  isOver = false
  readonly ended: Promise<readonly PublishOutcome[]>
  /** Why the server has returned a message, by its place in the batch; its confirmation follows. */
  readonly returnedFor = new Map<number, string>()
  readonly #outcomes: PublishOutcome[] = []
  #left: number
  readonly #end: (outcomes: readonly PublishOutcome[]) => void

  constructor(batch: readonly BrokerMessage[]) {
    this.batch = batch
    this.#left = batch.length
    const { promise, resolve } = Promise.withResolvers<readonly PublishOutcome[]>()
    this.ended = promise
    this.#end = resolve
  }

  settle(at: number, outcome: PublishOutcome): void {
    this.#outcomes[at] = outcome
    this.#left -= 1
    if (this.#left > 0) return
    this.isOver = true
    this.#end(this.#outcomes)
  }

  returned(id: string, why: string): void {
    const at = this.batch.findIndex((message) => message.id === id)
    if (at >= 0) this.returnedFor.set(at, why)
  }

  /** Ends the batch now; answers how many of its messages are on their way still. */
  giveUp(error: string): number {
    if (this.isOver) return 0
    this.isOver = true
    let unclear = 0
    for (const at of this.batch.keys()) {
      if (this.#outcomes[at] !== undefined) continue
      if (at < this.written) unclear += 1
      this.#outcomes[at] = { outcome: at < this.written ? 'failed' : 'unreachable', error }
    }
    this.#end(this.#outcomes)
    return unclear
  }
}
