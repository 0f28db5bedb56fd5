import type { Broker, BrokerMessage, PublishOutcome } from '../broker/broker.ts'
import type { DeliverRequest } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { type Destination, destinationParts, type Namespace } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { DeliveryOutcome, Outlet, Route } from './outlet.ts'

interface Outgoing {
  readonly message: BrokerMessage
  readonly timeoutMs: number
  readonly done: (outcome: DeliveryOutcome) => void
}

/** Messages that one broker may have unconfirmed, or waiting for the batch that is on its way. */
const WINDOW = 4_096
const BATCH_MAX = 512
const ROUTE: Route = { databaseId: '' }

/** One broker's messages: batches of whatever came while the last one was on its way. */
class Lane {
  readonly #broker: Broker
  readonly #runtime: Runtime
  readonly #room: () => void
  #queue: Outgoing[] = []
  #isPublishing = false
  unconfirmed = 0

  constructor(broker: Broker, runtime: Runtime, room: () => void) {
    this.#broker = broker
    this.#runtime = runtime
    this.#room = room
  }

  add(outgoing: Outgoing): void {
    this.unconfirmed += 1
    if (this.#queue.push(outgoing) === 1 && !this.#isPublishing)
      this.#runtime.defer(() => void this.#publish())
  }

  async #publish(): Promise<void> {
    if (this.#isPublishing) return
    this.#isPublishing = true
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0, BATCH_MAX)
      const outcomes = await this.#publishBatch(batch)
      const wasFull = this.unconfirmed >= WINDOW
      this.unconfirmed -= batch.length
      for (const [at, { done }] of batch.entries()) done(toDelivery(outcomes[at]))
      if (wasFull) this.#room()
    }
    this.#isPublishing = false
  }

  async #publishBatch(batch: readonly Outgoing[]): Promise<readonly PublishOutcome[]> {
    const timeoutMs = Math.min(...batch.map((outgoing) => outgoing.timeoutMs))
    const abort = new AbortController()
    const silent: PublishOutcome[] = batch.map(() => ({
      outcome: 'failed',
      error: `no confirmation within ${timeoutMs} ms`,
    }))
    let cancel = (): void => {}
    const late = new Promise<readonly PublishOutcome[]>((resolve) => {
      cancel = this.#runtime.setTimer(() => {
        abort.abort()
        resolve(silent)
      }, timeoutMs)
    })
    const messages = batch.map(({ message }) => message)
    // A broker never rejects; one that does, or throws, must not stop its lane for ever.
    const published = Promise.resolve()
      .then(() => this.#broker.publish(messages, abort.signal))
      .catch((thrown): readonly PublishOutcome[] => {
        const { message } = EscrowError.from(thrown)
        return batch.map(() => ({ outcome: 'failed', error: message }))
      })
    const outcomes = await Promise.race([published, late])
    cancel()
    return outcomes
  }
}

function toDelivery(outcome: PublishOutcome | undefined): DeliveryOutcome {
  if (outcome === undefined) return { outcome: 'unknown', error: 'the broker told no outcome' }
  if (outcome.outcome === 'published') return { outcome: 'delivered', error: '' }
  if (outcome.outcome === 'unreachable') return { outcome: 'noSession', error: outcome.error }
  return { outcome: outcome.outcome, error: outcome.error }
}

/** Sends each delivery where its destination says: to a broker, or to the participants' own outlet. */
export class DestinationOutlet implements Outlet {
  readonly #participants: Outlet
  readonly #runtime: Runtime
  readonly #lanes = new Map<string, Lane>()
  readonly #destinations = new Map<string, Set<string>>()
  #roomCallback: Parameters<Outlet['onRoom']>[0] = () => {}

  constructor(participants: Outlet, brokers: ReadonlyMap<string, Broker>, runtime: Runtime) {
    this.#participants = participants
    this.#runtime = runtime
    for (const [name, broker] of brokers)
      this.#lanes.set(name, new Lane(broker, runtime, () => this.#roomAt(name)))
  }

  #roomAt(broker: string): void {
    const waiting = this.#destinations.get(broker)
    this.#destinations.delete(broker)
    for (const each of waiting ?? []) {
      const space = each.indexOf(' ')
      this.#roomCallback(each.slice(0, space) as Namespace, {
        destination: each.slice(space + 1) as Destination,
      })
    }
  }

  #lane(destination: Destination): Lane | undefined {
    const colon = destination.indexOf(':')
    return colon < 0 ? undefined : this.#lanes.get(destination.slice(0, colon))
  }

  route(namespace: Namespace, destination: Destination, databaseId: string | undefined): Route | undefined {
    if (!destination.includes(':')) return this.#participants.route(namespace, destination, databaseId)
    const lane = this.#lane(destination)
    if (lane === undefined) return undefined
    if (lane.unconfirmed < WINDOW) return ROUTE
    const broker = destination.slice(0, destination.indexOf(':'))
    const waiting = this.#destinations.get(broker) ?? new Set<string>()
    this.#destinations.set(broker, waiting.add(`${namespace} ${destination}`))
    return undefined
  }

  deliver(
    destination: Destination,
    request: DeliverRequest,
    databaseId: string,
    done: (outcome: DeliveryOutcome) => void,
  ): void {
    if (!destination.includes(':')) {
      this.#participants.deliver(destination, request, databaseId, done)
      return
    }
    const lane = this.#lane(destination)
    const parts = destinationParts(destination)
    if (lane === undefined || parts.kind !== 'broker') {
      const error = `broker of ${destination} is not configured any more`
      this.#runtime.defer(() => done({ outcome: 'failed', error }))
      return
    }
    lane.add({
      message: {
        topic: parts.topic,
        id: request.executionId,
        key: request.key,
        body: request.body,
        headers: { ...traceHeaders(request), ...request.headers },
        contentType: request.contentType,
      },
      timeoutMs: request.timeoutMs,
      done,
    })
  }

  readonly checkBack: Outlet['checkBack'] = (request, databaseId, done) =>
    this.#participants.checkBack(request, databaseId, done)

  onRoom(callback: Parameters<Outlet['onRoom']>[0]): void {
    this.#roomCallback = callback
    this.#participants.onRoom(callback)
  }
}

/** The trace context as headers, so that it goes on behind the broker. */
function traceHeaders({ trace }: DeliverRequest): Record<string, string> {
  const headers: Record<string, string> = {}
  if (trace.traceparent !== '') headers.traceparent = trace.traceparent
  if (trace.tracestate !== '') headers.tracestate = trace.tracestate
  if (trace.baggage !== '') headers.baggage = trace.baggage
  return headers
}
