/**
 * Another node, as one of those who serve a name: it passes calls on to its own sessions. What room they have only it
 * knows, and it answers `noSession` where they have none.
 *
 * | state   | what it takes                                   | leaves by                                                     |
 * |---------|-------------------------------------------------|---------------------------------------------------------------|
 * | open    | what the link's window has room for             | `noSession`, others under way → limited; none → away          |
 * | limited | as many at once as were under way then; more as they are answered | `noSession` → a lower limit; none under way → away |
 * | away    | nothing                                         | its pause is over → limited to one; pauses double up to 1 s   |
 *
 * So whoever waits for room here hears of it: by an answer while calls are under way, by the pause's end otherwise; and a
 * crowd that waits isn't sent again and again to a node that is full.
 */
import type { CheckBackRequest, DeliverRequest, StepRequest } from '../core/api.ts'
import { boundMs } from '../core/backoff.ts'
import type { Runtime } from '../core/runtime.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../engine/outlet.ts'
import type { StepOutcome } from '../engine/step-outlet.ts'
import type { Receiver, Receivers } from './receivers.ts'
import type { SessionCalls } from './session-calls.ts'

const PAUSE = { delayMs: 50, delayMsMax: 1_000 }
/** A limit is raised by one after an eighth of it was answered, but no sooner than this: each time may cost a call in vain. */
const ANSWERS_MIN = 8

/** What a node needs to be called under one name. */
export interface NodeReceiverOptions {
  /** The calls of its link. */
  readonly calls: SessionCalls
  /** The database that it told. */
  readonly databaseId: string
  readonly setTimer: Runtime['setTimer']
  /** Those who wait for room under this name may try again. */
  room(): void
}

export class NodeReceiver implements Receiver {
  readonly #options: NodeReceiverOptions
  #limit = Number.POSITIVE_INFINITY
  #inFlight = 0
  /** Since the limit was changed. */
  #answers = 0
  /** Times in a row that it was away. */
  #misses = 0
  /** Ends the pause without its callback; undefined while it isn't away. */
  #cancelPause: (() => void) | undefined

  constructor(options: NodeReceiverOptions) {
    this.#options = options
  }

  get takesDelivery(): boolean {
    return this.#takes && this.#options.calls.takesDelivery
  }

  get takesCheckBack(): boolean {
    return this.#takes && this.#options.calls.takesCheckBack
  }

  get takesStep(): boolean {
    return this.#takes && this.#options.calls.takesStep
  }

  get #takes(): boolean {
    return this.#cancelPause === undefined && this.#inFlight < this.#limit
  }

  deliver(request: DeliverRequest, receivers: Receivers, done: (outcome: DeliveryOutcome) => void): void {
    const { calls, databaseId } = this.#options
    this.#inFlight++
    const ended = (outcome: DeliveryOutcome): void => {
      this.#ended(outcome.outcome === 'noSession')
      done(outcome)
    }
    calls.deliver(request, receivers, ended, databaseId)
  }

  checkBack(
    request: CheckBackRequest,
    receivers: Receivers,
    done: (outcome: CheckBackOutcome) => void,
  ): void {
    const { calls, databaseId } = this.#options
    this.#inFlight++
    const ended = (outcome: CheckBackOutcome): void => {
      this.#ended('outcome' in outcome)
      done(outcome)
    }
    calls.checkBack(request, receivers, ended, databaseId)
  }

  step(request: StepRequest, receivers: Receivers, done: (outcome: StepOutcome) => void): void {
    const { calls, databaseId } = this.#options
    this.#inFlight++
    const ended = (outcome: StepOutcome): void => {
      this.#ended(outcome.outcome === 'noSession')
      done(outcome)
    }
    calls.step(request, receivers, ended, databaseId)
  }

  #ended(isNoSession: boolean): void {
    this.#inFlight--
    if (isNoSession) return this.#turnedAway()
    this.#misses = 0
    if (this.#limit === Number.POSITIVE_INFINITY) return
    this.#answers++
    if (this.#answers >= Math.max(ANSWERS_MIN, this.#limit / 8)) {
      this.#limit++
      this.#answers = 0
    }
    this.#options.room()
  }

  #turnedAway(): void {
    this.#limit = Math.max(1, this.#inFlight)
    this.#answers = 0
    if (this.#inFlight > 0 || this.#cancelPause !== undefined) return
    this.#misses++
    this.#cancelPause = this.#options.setTimer(
      () => {
        this.#cancelPause = undefined
        this.#options.room()
      },
      boundMs(PAUSE, this.#misses),
    )
  }

  /** Takes nothing more; what is under way goes on. */
  close(): void {
    this.#cancelPause?.()
    this.#cancelPause = () => {}
  }
}
