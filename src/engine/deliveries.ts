/**
 * Deliveries on their way out of one log.
 *
 * | a waiting delivery is | because                                              | goes on when                     |
 * |-----------------------|------------------------------------------------------|----------------------------------|
 * | queued                | an earlier one of its key is not delivered yet        | that one is delivered or skipped |
 * | held                  | nobody takes it at this moment                       | there is room (`onRoom`)         |
 * | busy                  | it is decided, or under way                          | its outcome comes                |
 * | asleep                | its next attempt, or its own time, is not yet due     | its alarm                        |
 */
import type { DeliverRequest } from '../core/api.ts'
import type { MessageCommand } from '../core/decision.ts'
import { type Destination, destinationParts, type Namespace } from '../core/ids.ts'
import {
  deliveryExecutionId,
  isOrdered,
  type MessageDelivery,
  type MessageImage,
  outstanding,
} from '../core/message.ts'
import type { LogClock } from '../store/log.ts'
import { type Entry, minus, plus } from './entry.ts'
import type { Outlet, Route } from './outlet.ts'

interface Place {
  readonly entry: Entry
  readonly index: number
}

/** What deliveries need of their log. */
export interface DeliveriesOptions {
  readonly outlet: Outlet
  readonly submit: (entry: Entry, command: MessageCommand) => void
  /** Called when an entry that was pinned may have become idle. */
  readonly released: (entry: Entry) => void
  /** How many deliveries of this log may be held in memory; further ones are postponed in the store. */
  readonly heldMax: number
}

/** How many held deliveries one call for room may set going, so that a crowd doesn't outrun the window that it was told of. */
const OFFERED_AT_ONCE_MAX = 256

/** The deliveries of one log. */
export class Deliveries {
  readonly #options: DeliveriesOptions
  /** Ordered deliveries by destination and key, the next one first. */
  readonly #queues = new Map<string, Place[]>()
  /** Held ones by namespace and destination, in the order in which they came. */
  readonly #held = new Map<string, Set<Place>>()
  #heldCount = 0
  /** Names of which more are held than were offered at once. */
  readonly #cutShort = new Set<string>()
  #queuedCount = 0

  constructor(options: DeliveriesOptions) {
    this.#options = options
  }

  get heldCount(): number {
    return this.#heldCount
  }

  /** How many deliveries stand in the queues of their keys: they can't leave memory, so their number is bounded at prepare. */
  get queuedCount(): number {
    return this.#queuedCount
  }

  /** Who would take this delivery now; undefined when nobody would or its key is held back. Hot. */
  route(image: MessageImage, index: number): Route | undefined {
    const { head, state } = image
    if (state.phase !== 'committed') return undefined
    if (head.orderingKey !== '' && isOrdered(head, state, index) && this.#isHeldBack(image, index))
      return undefined
    const message = head.messages[index]
    const delivery = state.deliveries[index]
    if (message === undefined || delivery === undefined) return undefined
    return this.#options.outlet.route(head.namespace, message.destination, delivery.databaseId || undefined)
  }

  #isHeldBack({ head, state }: MessageImage, index: number): boolean {
    if (state.phase !== 'committed') return true
    const destination = head.messages[index]?.destination as Destination
    const first = this.#queues.get(queueName(head.namespace, destination, head.orderingKey))?.[0]
    if (first !== undefined)
      return first.entry.message.head.executionId !== head.executionId || first.index !== index
    // Not queued yet, so this is its commit: earlier messages of the same transaction go first.
    return head.messages.some(
      (earlier, at) => at < index && earlier.destination === destination && isOrdered(head, state, at),
    )
  }

  /** Puts what was recovered in its queues; nothing leaves before all are there. */
  restore(entry: Entry): void {
    if (entry.message.head.orderingKey !== '') this.#updateQueues(entry)
  }

  /** Brings queues and holds up to date after a change; returns the log time of the next thing to do, if any. */
  update(entry: Entry, clock: LogClock): number | undefined {
    const { head, state } = entry.message
    if (state.phase !== 'committed') return undefined
    if (head.orderingKey !== '') this.#updateQueues(entry)
    if (state.finishedAtMs > 0) return undefined
    let alarmAtMs: number | undefined
    for (const due of outstanding(entry.message)) {
      if (due.what !== 'delivery' || entry.busy.includes(due.index) || entry.held.includes(due.index))
        continue
      if (isOrdered(head, state, due.index) && !this.#isFirst(entry, due.index)) continue
      const atMs = due.clock === 'log' ? due.atMs : due.atMs - clock.wallMs + clock.logMs
      if (atMs > clock.logMs) alarmAtMs = Math.min(alarmAtMs ?? atMs, atMs)
      else this.#hold(entry, due.index)
    }
    return alarmAtMs
  }

  #updateQueues(entry: Entry): void {
    const { head, state } = entry.message
    if (state.phase !== 'committed') return
    state.deliveries.forEach((delivery, index) => {
      if (!isOrdered(head, state, index)) return
      const name = queueName(
        head.namespace,
        head.messages[index]?.destination as Destination,
        head.orderingKey,
      )
      const isOpen = delivery.status === 'waiting' || delivery.status === 'parked'
      if (isOpen === entry.queued.includes(index)) return
      const queue = this.#queues.get(name)
      if (isOpen) this.#enqueue(name, queue, { entry, index })
      else if (queue !== undefined) this.#dequeue(name, queue, entry, index)
    })
  }

  #enqueue(name: string, queue: Place[] | undefined, place: Place): void {
    place.entry.queued = plus(place.entry.queued, place.index)
    this.#queuedCount += 1
    if (queue === undefined) {
      this.#queues.set(name, [place])
      return
    }
    let at = queue.length
    while (at > 0 && isBefore(place, queue[at - 1] as Place)) at -= 1
    queue.splice(at, 0, place)
  }

  #dequeue(name: string, queue: Place[], entry: Entry, index: number): void {
    // Mostly the first: only what is skipped or delivered late stands further back.
    const at = queue.findIndex((place) => place.entry === entry && place.index === index)
    queue.splice(at, 1)
    entry.queued = minus(entry.queued, index)
    this.#queuedCount -= 1
    if (queue.length === 0) this.#queues.delete(name)
    const next = queue[0]
    if (at === 0 && next !== undefined && isWaiting(next)) this.#hold(next.entry, next.index)
  }

  #isFirst(entry: Entry, index: number): boolean {
    const { head } = entry.message
    const name = queueName(head.namespace, head.messages[index]?.destination as Destination, head.orderingKey)
    const first = this.#queues.get(name)?.[0]
    return first?.entry === entry && first.index === index
  }

  /** Holds a delivery that is due, and offers it at once. */
  #hold(entry: Entry, index: number): void {
    if (entry.busy.includes(index) || entry.held.includes(index)) return
    const { head } = entry.message
    if (this.#heldCount >= this.#options.heldMax && entry.queued.length === 0) {
      this.#options.submit(entry, this.#postpone(entry, index))
      return
    }
    const name = `${head.namespace} ${head.messages[index]?.destination}`
    let held = this.#held.get(name)
    if (held === undefined) {
      held = new Set()
      this.#held.set(name, held)
    }
    held.add({ entry, index })
    entry.held = plus(entry.held, index)
    this.#heldCount += 1
    if (this.route(entry.message, index) !== undefined) this.#offer(name, held)
  }

  #postpone(entry: Entry, index: number): MessageCommand {
    const { state } = entry.message
    const attempts = state.phase === 'committed' ? (state.deliveries[index]?.attempts ?? 0) : 0
    const outcome = { outcome: 'noSession', error: 'nobody takes it, and too many wait in memory' } as const
    return { type: 'answerDelivery', index, attempt: attempts + 1, outcome }
  }

  /** There may be room at a destination. */
  roomAt(namespace: Namespace, destination: Destination): void {
    const name = `${namespace} ${destination}`
    const held = this.#held.get(name)
    if (held !== undefined) this.#offer(name, held)
  }

  #offer(name: string, held: Set<Place>): void {
    this.#cutShort.delete(name)
    let offered = 0
    // Those that ask for another database may have luck where the first one hasn't.
    const closed = new Set<string>()
    for (const place of held) {
      const databaseId = deliveryAt(place)?.databaseId ?? ''
      if (closed.has(databaseId)) continue
      if (offered >= OFFERED_AT_ONCE_MAX) {
        this.#cutShort.add(name)
        return
      }
      if (this.route(place.entry.message, place.index) === undefined) {
        closed.add(databaseId)
        continue
      }
      offered += 1
      this.#unhold(name, held, place)
      this.#options.submit(place.entry, { type: 'dispatchDelivery', index: place.index })
    }
  }

  #unhold(name: string, held: Set<Place>, place: Place): void {
    held.delete(place)
    if (held.size === 0) this.#held.delete(name)
    place.entry.held = minus(place.entry.held, place.index)
    this.#heldCount -= 1
  }

  /** Goes on with what wasn't offered at once, and decides about held deliveries whose last-dispatch deadline has passed. */
  sweep(wallMs: number): void {
    for (const name of [...this.#cutShort]) {
      const held = this.#held.get(name)
      if (held === undefined) this.#cutShort.delete(name)
      else this.#offer(name, held)
    }
    for (const [name, held] of this.#held) {
      for (const place of held) {
        const delivery = deliveryAt(place)
        if (delivery !== undefined && wallMs < delivery.lastDispatchAtMs) continue
        this.#unhold(name, held, place)
        this.#options.submit(place.entry, { type: 'dispatchDelivery', index: place.index })
      }
    }
  }

  /** Sends what was decided and is durable now. */
  send(entry: Entry, index: number, attempt: number): void {
    const { head, state } = entry.message
    const message = head.messages[index]
    const delivery = state.phase === 'committed' ? state.deliveries[index] : undefined
    if (message?.body === undefined || delivery?.status !== 'waiting') {
      this.#done(entry, index)
      return
    }
    const to = destinationParts(message.destination)
    const request: DeliverRequest = {
      namespace: head.namespace,
      transactionId: head.id,
      executionId: deliveryExecutionId(head, index),
      attempt,
      service: to.kind === 'participant' ? to.service : to.broker,
      handler: to.kind === 'participant' ? to.handler : to.topic,
      body: message.body,
      headers: message.headers,
      key: message.key,
      contentType: message.contentType,
      trace: head.trace,
      timeoutMs: head.retry.attemptTimeoutMs,
    }
    this.#options.outlet.deliver(message.destination, request, delivery.databaseId, (outcome) => {
      this.#done(entry, index)
      if (outcome.outcome === 'noSession') this.#hold(entry, index)
      else this.#options.submit(entry, { type: 'answerDelivery', index, attempt, outcome })
    })
  }

  #done(entry: Entry, index: number): void {
    entry.busy = minus(entry.busy, index)
    this.#options.released(entry)
  }
}

const queueName = (namespace: Namespace, destination: Destination, key: string): string =>
  `${namespace} ${destination} ${key}`

function deliveryAt({ entry, index }: Place): MessageDelivery | undefined {
  const { state } = entry.message
  return state.phase === 'committed' ? state.deliveries[index] : undefined
}

const isWaiting = (place: Place): boolean => deliveryAt(place)?.status === 'waiting'

function isBefore(one: Place, other: Place): boolean {
  const a = one.entry.message.state
  const b = other.entry.message.state
  if (a.phase !== 'committed' || b.phase !== 'committed') return false
  return a.order < b.order || (a.order === b.order && one.index < other.index)
}
