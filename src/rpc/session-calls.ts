/**
 * The calls that one session has not answered.
 *
 * | state     | who knows what                                  | leaves by                                             |
 * |-----------|-------------------------------------------------|-------------------------------------------------------|
 * | asked     | the caller waits                                | its answer; its time-out → abandoned; a lost session  |
 * | abandoned | the caller was told `unknown`; the place in the window is still taken, because the participant is at it | its answer, which is dropped; after 60 s; a lost session |
 */
import type {
  CheckBackRequest,
  CheckBackResponse,
  DeliverRequest,
  DeliverResponse,
  StepRequest,
  StepResponse,
} from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../engine/outlet.ts'
import type { StepOutcome } from '../engine/step-outlet.ts'
import type { CoordinatorItem } from '../wire/items.ts'
import type { Receiver, Receivers } from './receivers.ts'
import { boundedStepResponse, unknownStep } from './step-response.ts'

/** Bodies that one session may have unanswered, in bytes, beside one more: what it doesn't read is kept in memory. */
export const DELIVERY_BYTES_MAX = 16 << 20
/** The same of the inputs and results that calls of steps carry. */
export const STEP_BYTES_MAX = 16 << 20
/** A handler that never ends gives its place back after this long beyond its time-out. */
export const ABANDONED_MS_MAX = 60_000

const ERROR_CHARS_MAX = 1024

interface Pending {
  readonly kind: Ended['kind']
  readonly receivers: Receivers
  readonly bytes: number
  readonly timeoutMs: number
  /** On the monotonic clock: when it is abandoned, then when it is forgotten. */
  dueMs: number
  /** Undefined once it is abandoned. */
  end: Ended | undefined
}

type Ended =
  | { readonly kind: 'delivery'; readonly done: (outcome: DeliveryOutcome) => void }
  | { readonly kind: 'checkBack'; readonly done: (outcome: CheckBackOutcome) => void }
  | { readonly kind: 'step'; readonly done: (outcome: StepOutcome) => void }

/** The places of one class of calls. */
class Window {
  readonly #callsMax: number
  readonly #bytesMax: number
  #calls = 0
  #bytes = 0

  constructor(callsMax: number, bytesMax: number) {
    this.#callsMax = callsMax
    this.#bytesMax = bytesMax
  }

  /** However long one call is: a class always takes it when nothing else is under way. */
  get hasRoom(): boolean {
    return this.#calls < this.#callsMax && this.#bytes < this.#bytesMax
  }

  take(bytes: number): void {
    this.#calls++
    this.#bytes += bytes
  }

  free(bytes: number): void {
    this.#calls--
    this.#bytes -= bytes
  }

  clear(): void {
    this.#calls = 0
    this.#bytes = 0
  }
}

/** What the calls of a session need. */
export interface SessionCallsOptions {
  readonly deliveriesMax: number
  readonly checkBacksMax: number
  readonly stepsMax: number
  send(item: CoordinatorItem): void
  /** Monotonic milliseconds. */
  monotonic(): number
  defer(callback: () => void): void
  /** `sweep` must be called soon after this time, on the monotonic clock. */
  expect(dueMs: number): void
  /** A place has come free that a call of these receivers held; `wasFull`: the only one of its class. */
  freed(receivers: Receivers, wasFull: boolean): void
  /** An answer came that nobody waits for. */
  dropped(): void
}

export class SessionCalls implements Receiver {
  readonly #options: SessionCallsOptions
  readonly #pending = new Map<number, Pending>()
  readonly #windows: { readonly [Kind in Ended['kind']]: Window }
  #nextCallId = 1
  #isOpen = true

  constructor(options: SessionCallsOptions) {
    this.#options = options
    this.#windows = {
      delivery: new Window(options.deliveriesMax, DELIVERY_BYTES_MAX),
      checkBack: new Window(options.checkBacksMax, 1),
      step: new Window(options.stepsMax, STEP_BYTES_MAX),
    }
  }

  /** Calls whose place is taken. */
  get size(): number {
    return this.#pending.size
  }

  get takesDelivery(): boolean {
    return this.#isOpen && this.#windows.delivery.hasRoom
  }

  get takesCheckBack(): boolean {
    return this.#isOpen && this.#windows.checkBack.hasRoom
  }

  get takesStep(): boolean {
    return this.#isOpen && this.#windows.step.hasRoom
  }

  /** Takes no new calls. */
  stop(): void {
    this.#isOpen = false
  }

  /** `databaseId`, here and below: only to a node, the one that it told. */
  deliver(
    request: DeliverRequest,
    receivers: Receivers,
    done: (outcome: DeliveryOutcome) => void,
    databaseId?: string,
  ): void {
    const callId = this.#nextCallId++
    try {
      this.#options.send({ type: 'delivery', callId, request, databaseId })
    } catch (error) {
      // It fits no frame. That is no attempt that a participant saw, but one more would end the same way.
      return this.#options.defer(() => done({ outcome: 'failed', error: textOf(error) }))
    }
    this.#add(callId, receivers, request.body.length, request.timeoutMs, { kind: 'delivery', done })
  }

  checkBack(
    request: CheckBackRequest,
    receivers: Receivers,
    done: (outcome: CheckBackOutcome) => void,
    databaseId?: string,
  ): void {
    const callId = this.#nextCallId++
    try {
      this.#options.send({ type: 'checkBack', callId, request, databaseId })
    } catch (error) {
      return this.#options.defer(() => done({ resolution: 'unknown', bodies: [], error: textOf(error) }))
    }
    this.#add(callId, receivers, 0, request.timeoutMs, { kind: 'checkBack', done })
  }

  step(
    request: StepRequest,
    receivers: Receivers,
    done: (outcome: StepOutcome) => void,
    databaseId?: string,
  ): void {
    const callId = this.#nextCallId++
    try {
      this.#options.send({ type: 'step', callId, request, databaseId })
    } catch (error) {
      const failed: StepOutcome = { outcome: 'failed', code: codeOf(error), error: textOf(error) }
      return this.#options.defer(() => done(failed))
    }
    // Characters: as many bytes, or up to three times as many, is near enough for what is kept in memory.
    const bytes = request.input.length + request.result.length
    this.#add(callId, receivers, bytes, request.timeoutMs, { kind: 'step', done })
  }

  #add(callId: number, receivers: Receivers, bytes: number, timeoutMs: number, end: Ended): void {
    this.#windows[end.kind].take(bytes)
    const dueMs = this.#options.monotonic() + timeoutMs
    this.#pending.set(callId, { kind: end.kind, receivers, bytes, timeoutMs, dueMs, end })
    this.#options.expect(dueMs)
  }

  /** The participant answered a delivery. */
  deliveryAnswered(callId: number, response: DeliverResponse): void {
    const end = this.#answered(callId, 'delivery')
    if (end?.kind === 'delivery')
      end.done({ outcome: response.outcome, error: response.error.slice(0, ERROR_CHARS_MAX) })
  }

  /** The participant answered a check-back. */
  checkBackAnswered(callId: number, response: CheckBackResponse): void {
    const end = this.#answered(callId, 'checkBack')
    if (end?.kind === 'checkBack') end.done({ ...response, error: response.error.slice(0, ERROR_CHARS_MAX) })
  }

  /** The participant answered a call of a step. */
  stepAnswered(callId: number, response: StepResponse): void {
    const end = this.#answered(callId, 'step')
    if (end?.kind === 'step') end.done(boundedStepResponse(response))
  }

  /** A node answered that nobody was asked, whatever the call was. */
  noSession(callId: number, error: string): void {
    const pending = this.#pending.get(callId)
    if (pending === undefined) return this.#options.dropped()
    const end = this.#answered(callId, pending.kind, true)
    end?.done({ outcome: 'noSession', error: error.slice(0, ERROR_CHARS_MAX) })
  }

  #answered(callId: number, kind: Ended['kind'], isTurnedAway = false): Ended | undefined {
    const pending = this.#pending.get(callId)
    const end = pending?.end
    // Never asked, or asked long ago, or asked as something else: nobody waits for it.
    if (pending === undefined || end?.kind !== kind) this.#options.dropped()
    if (pending === undefined || kind !== pending.kind) return undefined
    this.#remove(callId, pending, isTurnedAway)
    return end
  }

  #remove(callId: number, pending: Pending, isTurnedAway = false): void {
    const window = this.#windows[pending.kind]
    const wasFull = !window.hasRoom
    this.#pending.delete(callId)
    window.free(pending.bytes)
    // Who was turned away is no reason to send the next one there.
    if (wasFull || !isTurnedAway) this.#options.freed(pending.receivers, wasFull)
  }

  /** Abandons what has taken too long, and forgets what was abandoned long ago; returns the next time to do so. */
  sweep(nowMs: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const [callId, pending] of this.#pending) {
      if (pending.dueMs <= nowMs) {
        const { end } = pending
        if (end === undefined) {
          this.#remove(callId, pending)
          continue
        }
        pending.end = undefined
        pending.dueMs = nowMs + ABANDONED_MS_MAX
        answerUnknown(end, `no answer within ${pending.timeoutMs} ms`)
      }
      if (pending.dueMs < next) next = pending.dueMs
    }
    return next
  }

  /** The session is lost: whoever waits gets `unknown`, later. */
  lost(): void {
    this.#isOpen = false
    const lost = [...this.#pending.values()]
    this.#pending.clear()
    for (const window of Object.values(this.#windows)) window.clear()
    this.#options.defer(() => {
      for (const { end } of lost)
        if (end !== undefined) answerUnknown(end, 'the session was lost before its answer')
    })
  }
}

const codeOf = (error: unknown): string => EscrowError.from(error).code
const textOf = (error: unknown): string => EscrowError.from(error).message.slice(0, ERROR_CHARS_MAX)

function answerUnknown(end: Ended, error: string): void {
  if (end.kind === 'delivery') end.done({ outcome: 'unknown', error })
  else if (end.kind === 'step') end.done(unknownStep(error))
  else end.done({ resolution: 'unknown', bodies: [], error })
}
