/**
 * A participant that listens, as one of those who serve a name. Its window and its time-outs are its caller's.
 *
 * | state   | what it takes            | leaves by                                                              |
 * |---------|--------------------------|------------------------------------------------------------------------|
 * | here    | what its window has room for | no connection comes about → away                                   |
 * | away    | nothing                  | its pause is over → tried; the pauses double up to 10 s                |
 * | tried   | one call at a time       | no connection comes about → away; anything else → here                 |
 *
 * Without the pause, what nobody can be sent would be tried again at once, for ever.
 */
import type { CheckBackRequest, DeliverRequest, StepRequest } from '../core/api.ts'
import { boundMs } from '../core/backoff.ts'
import type { Runtime } from '../core/runtime.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../engine/outlet.ts'
import type { StepOutcome } from '../engine/step-outlet.ts'
import type { Receiver, Receivers } from './receivers.ts'

const AWAY_BACKOFF = { delayMs: 200, delayMsMax: 10_000 }

/** Calls one participant that listens. Each `done` is called exactly once, later, at the latest when the time is over. */
export interface Caller {
  /** How many more calls it takes now. */
  readonly room: number
  /** `noSession` tells that no connection came about. */
  deliver(request: DeliverRequest, done: (outcome: DeliveryOutcome) => void): void
  checkBack(request: CheckBackRequest, done: (outcome: CheckBackOutcome) => void): void
  step(request: StepRequest, done: (outcome: StepOutcome) => void): void
  /** Ends what is under way as unknown. */
  close(): void
}

/** What a listener needs beside its caller. */
export interface ListenerOptions {
  readonly caller: Caller
  readonly setTimer: Runtime['setTimer']
  /** A place has come free that a call of these receivers held. */
  freed(receivers: Receivers): void
  /** It may be back: everything that it serves has room. */
  back(): void
}

export class ListenerReceiver implements Receiver {
  readonly #options: ListenerOptions
  /** Times in a row that no connection came about. */
  #misses = 0
  #inFlight = 0
  /** Ends the pause without its callback; undefined while it isn't away. */
  #cancelPause: (() => void) | undefined

  constructor(options: ListenerOptions) {
    this.#options = options
  }

  get takesDelivery(): boolean {
    return this.#takes
  }

  get takesCheckBack(): boolean {
    return this.#takes
  }

  get takesStep(): boolean {
    return this.#takes
  }

  get #takes(): boolean {
    if (this.#cancelPause !== undefined) return false
    return this.#misses === 0 ? this.#options.caller.room > 0 : this.#inFlight === 0
  }

  deliver(request: DeliverRequest, receivers: Receivers, done: (outcome: DeliveryOutcome) => void): void {
    this.#inFlight++
    this.#options.caller.deliver(request, (outcome) => {
      this.#ended(receivers, outcome.outcome === 'noSession')
      done(outcome)
    })
  }

  checkBack(
    request: CheckBackRequest,
    receivers: Receivers,
    done: (outcome: CheckBackOutcome) => void,
  ): void {
    this.#inFlight++
    this.#options.caller.checkBack(request, (outcome) => {
      this.#ended(receivers, 'outcome' in outcome)
      done(outcome)
    })
  }

  step(request: StepRequest, receivers: Receivers, done: (outcome: StepOutcome) => void): void {
    this.#inFlight++
    this.#options.caller.step(request, (outcome) => {
      this.#ended(receivers, outcome.outcome === 'noSession')
      done(outcome)
    })
  }

  #ended(receivers: Receivers, isAway: boolean): void {
    this.#inFlight--
    if (!isAway) {
      const wasTried = this.#misses > 0
      this.#misses = 0
      if (wasTried) this.#options.back()
      else this.#options.freed(receivers)
      return
    }
    if (this.#cancelPause !== undefined) return
    this.#misses++
    this.#cancelPause = this.#options.setTimer(
      () => {
        this.#cancelPause = undefined
        this.#options.back()
      },
      boundMs(AWAY_BACKOFF, this.#misses),
    )
  }

  /** Takes nothing more, and ends what is under way as unknown. */
  close(): void {
    this.#cancelPause?.()
    this.#cancelPause = () => {}
    this.#options.caller.close()
  }
}
