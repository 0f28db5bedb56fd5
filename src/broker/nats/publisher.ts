/**
 * Publishes on subjects of NATS: all keys of a batch at once; of one key, a message leaves when the one before it is
 * confirmed. A stream can refuse a single one (it is full, its leader changes), and those behind would overtake.
 */
import { type Msg, type MsgHdrs, headers as newHeaders } from '@nats-io/transport-node'
import type { BrokerMessage, MessageText, PublishOutcome } from '../broker.ts'
import type { Publisher } from '../connector.ts'
import { headerFault, headersOf } from '../headers.ts'
import { type NatsConnection, natsError } from './connection.ts'

const ID = 'Nats-Msg-Id'
const STREAM = 'Nats-Expected-Stream'
const TOO_LARGE = 10_054
const NO_RESPONDERS = 503

interface Acknowledgement {
  readonly error?: { readonly description?: string; readonly err_code?: number }
}

/** Such a publisher. */
export class NatsPublisher implements Publisher<NatsConnection> {
  /** By topic, as it was registered. */
  readonly streams = new Map<string, string>()

  async publish(
    connection: NatsConnection,
    batch: readonly BrokerMessage[],
  ): Promise<readonly PublishOutcome[]> {
    const outcomes: PublishOutcome[] = Array.from({ length: batch.length })
    const keys = new Map<string, number[]>()
    const published: Promise<void>[] = []
    for (const [at, message] of batch.entries()) {
      const chain = message.key === '' ? undefined : keys.get(message.key)
      if (chain !== undefined) {
        chain.push(at)
        continue
      }
      const begun = [at]
      if (message.key !== '') keys.set(message.key, begun)
      published.push(this.#publishChain(connection, batch, begun, outcomes))
    }
    await Promise.all(published)
    return outcomes
  }

  /** `chain` grows in the turn in which it begins. */
  async #publishChain(
    connection: NatsConnection,
    batch: readonly BrokerMessage[],
    chain: readonly number[],
    outcomes: PublishOutcome[],
  ): Promise<void> {
    let failure: PublishOutcome | undefined
    for (const at of chain) {
      const outcome = failure ?? (await this.#publishOne(connection, batch[at] as BrokerMessage))
      outcomes[at] = outcome
      if (outcome.outcome === 'failed' || outcome.outcome === 'unreachable') failure = outcome
    }
  }

  async #publishOne(connection: NatsConnection, message: BrokerMessage): Promise<PublishOutcome> {
    const fault = faultOf(message)
    if (fault !== undefined) return { outcome: 'refused', error: `nats: ${fault}` }
    let answer: Promise<Msg>
    try {
      answer = connection.ask(message.topic, message.body, this.#headers(message))
    } catch (thrown) {
      // Nothing has left: the connection is known to be broken, or the library won't have the message.
      const outcome = connection.isOpen ? 'refused' : 'unreachable'
      return { outcome, error: natsError(thrown).message }
    }
    try {
      return outcomeOf(await answer)
    } catch (thrown) {
      return { outcome: 'failed', error: natsError(thrown).message }
    }
  }

  #headers(message: BrokerMessage): MsgHdrs {
    const found = newHeaders()
    const all = headersOf(message)
    for (const name in all) found.append(name, all[name] as string)
    found.append(ID, message.id)
    const stream = this.streams.get(message.topic)
    if (stream !== undefined) found.append(STREAM, stream)
    return found
  }
}

/** What NATS can't carry of a message; undefined for nothing. */
export const faultOf = (text: MessageText): string | undefined =>
  headerFault(text, (name, value) => {
    if (name.includes(':')) return 'has a colon in its name'
    // A server acts on those.
    if (/^nats-/i.test(name)) return "has a name of NATS' own"
    if (/[\r\n]/.test(value)) return 'has a line break'
    // The library would leave it away.
    return value === value.trim() ? undefined : 'begins or ends with white space'
  })

const PUBLISHED: PublishOutcome = { outcome: 'published' }

function outcomeOf(answer: Msg): PublishOutcome {
  if (answer.data.length === 0 && answer.headers?.code === NO_RESPONDERS)
    return { outcome: 'failed', error: 'nats: no stream binds the subject now' }
  const { error } = answer.json<Acknowledgement>()
  if (error === undefined) return PUBLISHED
  const text = `nats: ${error.description} (${error.err_code})`
  return { outcome: error.err_code === TOO_LARGE ? 'refused' : 'failed', error: text }
}
