/**
 * The requests of a session, from the call to its answer.
 *
 * | state   | where it is                          | leaves by                                                           |
 * |---------|--------------------------------------|---------------------------------------------------------------------|
 * | queued  | waits for a connection and a place   | sent when both are there; over when its time has passed             |
 * | sent    | the coordinator has it, or will      | over by its answer; delayed by "not now" and by `uncertain`, which is what a node answers that has lost the one that it asked; queued by a lost connection |
 * | delayed | waits for its backoff                | queued when that has passed; over when its time has passed          |
 * | over    | the caller has been told             | a place in the window is kept until the coordinator has answered too |
 *
 * What is sent again after a lost connection keeps its command id and its transaction id, and goes in the order of command
 * ids, before anything new.
 */
import type { Operation, OperationRequest, Operations } from '../core/api.ts'
import { fullJitterMs } from '../core/backoff.ts'
import { type ErrorCode, EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { ServiceItem } from '../wire/items.ts'
import { Deadlines } from './deadlines.ts'

/** How one request is made. */
export interface RequestOptions {
  /** How long to wait for the answer. Default 30,000, for `wait` 300,000; 1 to 2^31 - 1. */
  readonly timeoutMs?: number | undefined
  /** Gives the wait for an answer up; what was sent may still be done. */
  readonly signal?: AbortSignal | undefined
}

/** What waits for its answer, at most; more are refused as `overloaded`. */
export const REQUESTS_MAX = 65_536

const TIMEOUT_MS = 30_000
const WAIT_TIMEOUT_MS = 300_000
const TIMEOUT_MS_MAX = 2 ** 31 - 1
const RETRY_BACKOFF = { delayMs: 50, delayMsMax: 2000 }
/** "Not now": nothing was done, and every command is harmless to send again under its ids. */
const NOT_NOW: ReadonlySet<ErrorCode> = new Set([
  'overloaded',
  'definitionMissing',
  'notOwner',
  'storeUnavailable',
  'shuttingDown',
])
const READS: ReadonlySet<Operation> = new Set(['get', 'list', 'wait'])

interface Pending {
  readonly commandId: number
  readonly op: Operation
  readonly request: unknown
  /** On the monotonic clock. */
  readonly deadline: number
  state: 'queued' | 'sent' | 'delayed' | 'over'
  /** It may have been done: it left, and no answer tells that it wasn't. */
  mayBeDone: boolean
  /** It was sent and nobody knows what became of it, so that a later "not now" doesn't tell that it wasn't done. */
  wasLost: boolean
  attempts: number
  lastError: EscrowError | undefined
  resolve(response: never): void
  reject(error: EscrowError): void
  unlisten: (() => void) | undefined
  cancelRetry: (() => void) | undefined
}

/** A connection as requests use it. */
export interface RequestSink {
  readonly window: number
  send(item: ServiceItem): void
}

/** The requests of one session: window, order, repetition and time-outs. */
export class Requests {
  readonly #runtime: Runtime
  readonly #isForwarding: boolean
  readonly #deadlines: Deadlines
  /** Sent and not answered, in the order of sending. */
  readonly #unanswered = new Map<number, Pending>()
  readonly #delayed = new Set<Pending>()
  #queue: Pending[] = []
  #queueHead = 0
  #sink: RequestSink | undefined
  #inWindow = 0
  #nextCommandId = 1
  #open = 0
  #openWaits = 0
  #closed: EscrowError | undefined
  #whenIdle: (() => void) | undefined

  /** `isForwarding`: whatever the answer is, it is told on and nothing is sent again. Default false. */
  constructor(runtime: Runtime, { isForwarding = false } = {}) {
    this.#runtime = runtime
    this.#isForwarding = isForwarding
    this.#deadlines = new Deadlines(runtime, (now) => this.#sweep(now))
  }

  /** Requests that the coordinator has not answered and that somebody waits for, `wait` left out. */
  get unfinished(): number {
    return this.#open - this.#openWaits
  }

  /** Commands that hold a place in the window. */
  get inWindow(): number {
    return this.#inWindow
  }

  /** Makes a request. Rejects with whatever the coordinator answers, `overloaded`, `disconnected`, `deadlineExceeded`, `uncertain`. */
  submit<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    options: RequestOptions,
  ): Promise<Operations[Op]['response']> {
    if (this.#closed !== undefined) return Promise.reject(this.#closed)
    if (this.#open >= REQUESTS_MAX) {
      return Promise.reject(
        new EscrowError('overloaded', `requestsMax of ${REQUESTS_MAX} unanswered requests is reached`),
      )
    }
    const timeoutMs = options.timeoutMs ?? (op === 'wait' ? WAIT_TIMEOUT_MS : TIMEOUT_MS)
    if (!(timeoutMs >= 1 && timeoutMs <= TIMEOUT_MS_MAX)) {
      return Promise.reject(
        new EscrowError('invalidArgument', `timeoutMs is ${timeoutMs}, allowed are 1-${TIMEOUT_MS_MAX}`),
      )
    }
    return new Promise((resolve, reject) => {
      const pending: Pending = {
        commandId: this.#nextCommandId++,
        op,
        request,
        deadline: this.#runtime.monotonic() + timeoutMs,
        state: 'queued',
        mayBeDone: false,
        wasLost: false,
        attempts: 0,
        lastError: undefined,
        resolve,
        reject,
        unlisten: undefined,
        cancelRetry: undefined,
      }
      this.#open++
      if (op === 'wait') this.#openWaits++
      if (options.signal !== undefined) this.#listen(pending, options.signal)
      this.#deadlines.expect(pending.deadline)
      this.#enqueue(pending)
    })
  }

  #listen(pending: Pending, signal: AbortSignal): void {
    const onAbort = (): void => this.#giveUp(pending, 'the caller gave it up', signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    pending.unlisten = () => signal.removeEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
  }

  #enqueue(pending: Pending): void {
    if (pending.state === 'over') return
    pending.state = 'queued'
    const sink = this.#sink
    if (sink !== undefined && this.#queueHead === this.#queue.length && this.#inWindow < sink.window) {
      this.#send(pending, sink)
    } else {
      this.#queue.push(pending)
    }
  }

  #send(pending: Pending, sink: RequestSink): void {
    pending.state = 'sent'
    pending.mayBeDone = true
    this.#unanswered.set(pending.commandId, pending)
    if (pending.op !== 'wait') this.#inWindow++
    const timeoutMs = Math.max(1, Math.ceil(pending.deadline - this.#runtime.monotonic()))
    const { commandId, op, request } = pending
    try {
      sink.send({ type: 'command', commandId, timeoutMs, op, request } as ServiceItem & OperationRequest)
    } catch (thrown) {
      // It never left: too large for a frame, or too much is queued already.
      this.#take(commandId)
      pending.mayBeDone = pending.wasLost
      this.#refused(pending, EscrowError.from(thrown))
    }
  }

  #pump(): void {
    const sink = this.#sink
    if (sink === undefined) return
    while (this.#queueHead < this.#queue.length && this.#inWindow < sink.window) {
      const pending = this.#queue[this.#queueHead++] as Pending
      if (pending.state === 'queued') this.#send(pending, sink)
    }
    if (this.#queueHead === this.#queue.length) {
      this.#queue.length = 0
      this.#queueHead = 0
    } else if (this.#queueHead >= 1024 && this.#queueHead * 2 >= this.#queue.length) {
      this.#queue = this.#queue.slice(this.#queueHead)
      this.#queueHead = 0
    }
  }

  /** A connection is there: what was unanswered goes first, in the order of command ids, then what has waited. */
  connected(sink: RequestSink): void {
    this.#sink = sink
    this.#pump()
  }

  /** Nothing more is sent on this connection; answers may still come. */
  hold(): void {
    this.#sink = undefined
  }

  /** The connection is lost: what it left unanswered is sent again on the next one. */
  lost(): void {
    this.#sink = undefined
    this.#inWindow = 0
    const again: Pending[] = []
    for (const pending of this.#unanswered.values()) {
      if (pending.state === 'over') continue
      pending.state = 'queued'
      pending.wasLost = true
      again.push(pending)
    }
    this.#unanswered.clear()
    const queued = this.#queue.slice(this.#queueHead).filter((pending) => pending.state === 'queued')
    this.#queue = [...again, ...queued].sort((a, b) => a.commandId - b.commandId)
    this.#queueHead = 0
  }

  /** The coordinator answered a command. */
  answered(commandId: number, response: unknown): void {
    const pending = this.#take(commandId)
    if (pending === undefined) return
    if (pending.state !== 'over') {
      this.#finish(pending)
      pending.resolve(response as never)
    }
    this.#pump()
  }

  /** The coordinator answered a command with an error. */
  failed(commandId: number, error: EscrowError): void {
    const pending = this.#take(commandId)
    if (pending === undefined) return
    if (pending.state !== 'over') {
      if (error.code === 'uncertain') pending.wasLost = true
      this.#refused(pending, error)
    }
    this.#pump()
  }

  #take(commandId: number): Pending | undefined {
    const pending = this.#unanswered.get(commandId)
    if (pending === undefined) return undefined
    this.#unanswered.delete(commandId)
    if (pending.op !== 'wait') this.#inWindow--
    return pending
  }

  #refused(pending: Pending, error: EscrowError): void {
    if (this.#retry(pending, error)) return
    // "Not now" tells of this time only: it may have been done before.
    const isOfBefore = pending.wasLost && NOT_NOW.has(error.code)
    this.#fail(pending, isOfBefore ? this.#unansweredError(pending, error.message, error) : error)
  }

  #retry(pending: Pending, error: EscrowError): boolean {
    const isHarmless = error.code === 'uncertain' ? !READS.has(pending.op) : NOT_NOW.has(error.code)
    if (this.#isForwarding || !isHarmless) return false
    pending.lastError = error
    pending.mayBeDone = pending.wasLost
    pending.attempts++
    const delayMs = 1 + fullJitterMs(RETRY_BACKOFF, pending.attempts, this.#runtime.random())
    if (this.#closed !== undefined || this.#runtime.monotonic() + delayMs >= pending.deadline) return false
    pending.state = 'delayed'
    this.#delayed.add(pending)
    pending.cancelRetry = this.#runtime.setTimer(() => {
      this.#delayed.delete(pending)
      pending.cancelRetry = undefined
      this.#enqueue(pending)
    }, delayMs)
    return true
  }

  #sweep(now: number): number {
    let next = Number.POSITIVE_INFINITY
    const look = (pending: Pending): void => {
      if (pending.state === 'over') return
      if (pending.deadline <= now) this.#giveUp(pending, 'its time has passed')
      else if (pending.deadline < next) next = pending.deadline
    }
    for (const pending of this.#unanswered.values()) look(pending)
    for (const pending of this.#delayed) look(pending)
    for (let i = this.#queueHead; i < this.#queue.length; i++) look(this.#queue[i] as Pending)
    // While there is no connection nothing else takes what is over out of the queue.
    this.#queue = this.#queue.slice(this.#queueHead).filter((pending) => pending.state === 'queued')
    this.#queueHead = 0
    return next
  }

  #giveUp(pending: Pending, why: string, cause?: unknown): void {
    if (pending.state !== 'over') this.#fail(pending, this.#unansweredError(pending, why, cause))
  }

  #unansweredError(pending: Pending, why: string, cause: unknown): EscrowError {
    const what = `${pending.op} ${pending.commandId}`
    const options = { cause: cause ?? pending.lastError }
    if (pending.mayBeDone && !READS.has(pending.op))
      return new EscrowError('uncertain', `${what} was sent and not answered: ${why}`, options)
    if (pending.lastError !== undefined) return pending.lastError
    if (this.#sink === undefined && !pending.mayBeDone)
      return new EscrowError('disconnected', `${what} never left: ${why}`, options)
    return new EscrowError('deadlineExceeded', `${what} was not done: ${why}`, options)
  }

  #fail(pending: Pending, error: EscrowError): void {
    this.#finish(pending)
    pending.reject(error)
  }

  #finish(pending: Pending): void {
    pending.state = 'over'
    pending.unlisten?.()
    pending.cancelRetry?.()
    this.#delayed.delete(pending)
    this.#open--
    if (pending.op === 'wait') this.#openWaits--
    if (this.#whenIdle !== undefined && this.unfinished === 0) this.#whenIdle()
  }

  /** Takes nothing new, and resolves when everything but `wait` is answered, at the latest after `timeoutMs`. */
  async close(error: EscrowError, timeoutMs: number): Promise<void> {
    this.#closed = error
    if (this.unfinished > 0) {
      await new Promise<void>((resolve) => {
        const cancel = this.#runtime.setTimer(resolve, timeoutMs)
        this.#whenIdle = () => {
          cancel()
          resolve()
        }
      })
    }
    this.#whenIdle = undefined
    this.#deadlines.stop()
    const rest = [...this.#unanswered.values(), ...this.#delayed, ...this.#queue.slice(this.#queueHead)]
    this.#sink = undefined
    for (const pending of rest) {
      if (pending.state !== 'over') {
        this.#fail(
          pending,
          READS.has(pending.op) ? error : this.#unansweredError(pending, error.message, error),
        )
      }
    }
    this.#unanswered.clear()
    this.#queue = []
    this.#queueHead = 0
  }
}
