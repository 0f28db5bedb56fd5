/**
 * The way to one broker: a lane for each destination, one unconfirmed batch a lane, so that no destination waits for another
 * one; and breakers, one for the broker and one for each destination.
 *
 * | what came of a batch         | its deliveries      | the destination's breaker | the broker's breaker |
 * |------------------------------|---------------------|---------------------------|----------------------|
 * | anything published, refused  | as each is told     | success                   | success              |
 * | all failed, or too late      | an attempt each     | failure                   |                      |
 * | all unreachable              | no attempt, held    |                           | failure: it opens    |
 *
 * While a breaker is open its destinations have no room, so that deliveries are held and spend no attempt.
 */
import type { Broker, BrokerMessage, PublishOutcome } from '../broker/broker.ts'
import type { Backoff } from '../core/backoff.ts'
import { EscrowError } from '../core/errors.ts'
import type { Destination, Namespace } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import { Breaker } from './breaker.ts'
import type { DeliveryOutcome } from './outlet.ts'

/** A message on its way to a broker. */
export interface Outgoing {
  readonly message: BrokerMessage
  readonly timeoutMs: number
  readonly done: (outcome: DeliveryOutcome) => void
}

/** One broker, and whom to tell. */
export interface BrokerLanesOptions {
  readonly name: string
  readonly broker: Pick<Broker, 'publish'>
  readonly runtime: Runtime
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void
  /** There may be room for what was turned away. */
  readonly room: (namespace: Namespace, destination: Destination) => void
}

/** Messages that one broker may have unconfirmed, or waiting for the batch that is on its way. */
const WINDOW = 4_096
const BATCH_MAX = 1_024
/** So many bytes make a batch full; a larger message goes alone. */
const BATCH_BYTES_MAX = 4 << 20
/** A broker that doesn't return after its time is given up after so long, and its lane goes on. */
const RETURN_MS_MAX = 2_000
const DESTINATION_FAILURES_MAX = 5
const PAUSE: Backoff = { delayMs: 500, delayMsMax: 30_000 }

/** All lanes of one broker. */
export class BrokerLanes {
  readonly #options: BrokerLanesOptions
  readonly #breaker: Breaker
  readonly #lanes = new Map<Destination, Lane>()
  /** Turned away, and told when there is room: by namespace and destination. */
  readonly #waiting = new Map<string, readonly [Namespace, Destination]>()
  #unconfirmed = 0

  constructor(options: BrokerLanesOptions) {
    this.#options = options
    this.#breaker = this.#breakerOf(`broker ${options.name}`, 1)
  }

  /** Its room is everybody's. */
  #breakerOf(what: string, failuresMax: number): Breaker {
    const { runtime, log } = this.#options
    return new Breaker({
      runtime,
      failuresMax,
      pause: PAUSE,
      opened: (error, pauseMs) =>
        log(
          'warn',
          `${what} takes nothing (${error}): what is for it waits; it is tried again in ${pauseMs} ms`,
        ),
      closed: () => log('info', `${what} takes messages again`),
      room: () => this.#tellRoom(),
    })
  }

  #lane(destination: Destination): Lane {
    const lane = this.#lanes.get(destination)
    if (lane !== undefined) return lane
    const { broker, runtime } = this.#options
    const made = new Lane({
      broker,
      runtime,
      brokerBreaker: this.#breaker,
      breaker: this.#breakerOf(destination, DESTINATION_FAILURES_MAX),
      confirmed: (count) => {
        const wasFull = this.#unconfirmed >= WINDOW
        this.#unconfirmed -= count
        if (wasFull || this.#breaker.passing === 1 || made.breaker.passing === 1) this.#tellRoom()
      },
    })
    this.#lanes.set(destination, made)
    return made
  }

  /** Whether one more may leave for a destination now; whoever is turned away is told when. Hot. */
  hasRoom(namespace: Namespace, destination: Destination): boolean {
    const lane = this.#lane(destination)
    const isPassing =
      this.#unconfirmed < Math.min(WINDOW, this.#breaker.passing) && lane.unconfirmed < lane.breaker.passing
    if (isPassing) return true
    this.#waiting.set(`${namespace} ${destination}`, [namespace, destination])
    return false
  }

  add(destination: Destination, outgoing: Outgoing): void {
    this.#unconfirmed += 1
    this.#lane(destination).add(outgoing)
  }

  #tellRoom(): void {
    const waiting = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const [namespace, destination] of waiting) this.#options.room(namespace, destination)
  }

  close(): void {
    this.#breaker.close()
    for (const { breaker } of this.#lanes.values()) breaker.close()
  }
}

interface LaneOptions {
  readonly broker: Pick<Broker, 'publish'>
  readonly runtime: Runtime
  readonly breaker: Breaker
  readonly brokerBreaker: Breaker
  readonly confirmed: (count: number) => void
}

/** One destination's messages: batches of whatever came while the last one was on its way. */
class Lane {
  readonly #options: LaneOptions
  readonly breaker: Breaker
  #queue: Outgoing[] = []
  #isPublishing = false
  unconfirmed = 0

  constructor(options: LaneOptions) {
    this.#options = options
    this.breaker = options.breaker
  }

  add(outgoing: Outgoing): void {
    this.unconfirmed += 1
    if (this.#queue.push(outgoing) === 1 && !this.#isPublishing)
      this.#options.runtime.defer(() => void this.#publish())
  }

  async #publish(): Promise<void> {
    if (this.#isPublishing) return
    this.#isPublishing = true
    while (this.#queue.length > 0) {
      // What was on its way here when a breaker opened goes back: no attempt is made of it.
      const isShut = this.breaker.passing === 0 || this.#options.brokerBreaker.passing === 0
      const batch = isShut ? this.#queue.splice(0) : this.#take()
      const outcomes = isShut ? undefined : await this.#publishBatch(batch)
      if (outcomes !== undefined) this.#judge(outcomes)
      this.unconfirmed -= batch.length
      for (const [at, { done }] of batch.entries())
        done(outcomes === undefined ? SHUT : toDelivery(outcomes[at]))
      this.#options.confirmed(batch.length)
    }
    this.#isPublishing = false
  }

  /** The next batch; on trial no more than breakers let pass, however many were sent here at once. */
  #take(): Outgoing[] {
    const max = Math.min(BATCH_MAX, this.breaker.passing, this.#options.brokerBreaker.passing)
    let bytes = 0
    let count = 0
    for (const { message } of this.#queue) {
      bytes += message.body.length
      if (count === max || (count > 0 && bytes > BATCH_BYTES_MAX)) break
      count += 1
    }
    return this.#queue.splice(0, count)
  }

  #judge(outcomes: readonly PublishOutcome[]): void {
    const { brokerBreaker } = this.#options
    const [first] = outcomes
    if (outcomes.every(({ outcome }) => outcome === 'unreachable')) {
      brokerBreaker.failed(errorOf(first))
    } else if (outcomes.every(({ outcome }) => outcome === 'failed' || outcome === 'unreachable')) {
      this.breaker.failed(errorOf(first))
      // It was reached, so that it isn't the broker as a whole; what is wrong with this destination its own breaker says.
      if (brokerBreaker.passing !== Number.POSITIVE_INFINITY) brokerBreaker.failed(errorOf(first))
    } else {
      this.breaker.succeeded()
      brokerBreaker.succeeded()
    }
  }

  async #publishBatch(batch: readonly Outgoing[]): Promise<readonly PublishOutcome[]> {
    const { broker, runtime } = this.#options
    const timeoutMs = Math.min(...batch.map((outgoing) => outgoing.timeoutMs))
    const abort = new AbortController()
    let cancel = (): void => {}
    const late = new Promise<readonly PublishOutcome[]>((resolve) => {
      cancel = runtime.setTimer(() => {
        abort.abort()
        // It returns now with what it knows; one that doesn't must not stop its lane for ever.
        cancel = runtime.setTimer(
          () => resolve(allFailed(batch, `no confirmation within ${timeoutMs} ms`)),
          RETURN_MS_MAX,
        )
      }, timeoutMs)
    })
    const messages = batch.map(({ message }) => message)
    // A broker never rejects; one that does, or throws, must not stop its lane for ever.
    const published = Promise.resolve()
      .then(() => broker.publish(messages, abort.signal))
      .catch((thrown) => allFailed(batch, EscrowError.from(thrown).message))
    const outcomes = await Promise.race([published, late])
    cancel()
    return outcomes
  }
}

const SHUT: DeliveryOutcome = { outcome: 'noSession', error: 'the broker takes nothing at this moment' }

const allFailed = (batch: readonly Outgoing[], error: string): readonly PublishOutcome[] =>
  batch.map(() => ({ outcome: 'failed', error }))

const errorOf = (outcome: PublishOutcome | undefined): string =>
  outcome !== undefined && 'error' in outcome ? outcome.error : 'it told no outcome'

function toDelivery(outcome: PublishOutcome | undefined): DeliveryOutcome {
  if (outcome === undefined) return { outcome: 'unknown', error: 'the broker told no outcome' }
  if (outcome.outcome === 'published') return { outcome: 'delivered', error: '' }
  if (outcome.outcome === 'unreachable') return { outcome: 'noSession', error: outcome.error }
  return { outcome: outcome.outcome, error: outcome.error }
}
