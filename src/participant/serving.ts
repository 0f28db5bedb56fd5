import type { CheckBackRequest, CheckBackResponse, DeliverRequest, DeliverResponse } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { parseName } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import { askChecker, type TransactionChecker, unknownAnswer } from './checker.ts'
import { Deadlines } from './deadlines.ts'
import { IncomingMessage, type MessageHandler } from './received-message.ts'
import { boundedText, Refusal, thrownText } from './refusal.ts'
import { withTrace } from './tracing.ts'

/** The handlers of a participant, by name. */
export type Handlers = Readonly<Record<string, MessageHandler>>

/** How many calls may run at once, of each class. */
export interface ServingBounds {
  readonly deliveriesMax: number
  readonly checkBacksMax: number
}

interface Call {
  readonly deadline: number
  expire(): void
}

const DELIVERED: DeliverResponse = { outcome: 'delivered', error: '' }

/**
 * Runs handlers and checkers. Every call is answered exactly once, at the latest when its time has passed; what a handler
 * says after that is dropped. No method throws.
 */
export class Serving {
  readonly #runtime: Runtime
  readonly #bounds: ServingBounds
  readonly #handlers = new Map<string, MessageHandler>()
  readonly #checkers = new Map<string, TransactionChecker>()
  readonly #detach = new Map<TransactionChecker, () => void>()
  readonly #calls = new Set<Call>()
  readonly #deadlines: Deadlines
  #deliveries = 0
  #checkBacks = 0
  #whenIdle: (() => void) | undefined

  constructor(runtime: Runtime, bounds: ServingBounds) {
    this.#runtime = runtime
    this.#bounds = bounds
    this.#deadlines = new Deadlines(runtime, (now) => this.#sweep(now))
  }

  /** Calls that are not answered yet. */
  get running(): number {
    return this.#calls.size
  }

  /** Serves these handlers from now on. Throws `invalidArgument`, also for a name that is taken. */
  addHandlers(handlers: Handlers): void {
    const names = Object.keys(handlers)
    for (const name of names) {
      parseName('handler', name)
      if (typeof handlers[name] !== 'function')
        throw new EscrowError('invalidArgument', `handler ${name} is not a function`)
      if (this.#handlers.has(name))
        throw new EscrowError('invalidArgument', `handler ${name} is registered already`)
    }
    for (const name of names) this.#handlers.set(name, handlers[name] as MessageHandler)
  }

  /** Serves this checker from now on. Throws `invalidArgument`, also for a name that is taken. */
  addChecker(name: string, checker: TransactionChecker): void {
    parseName('checker', name)
    if (typeof checker?.check !== 'function')
      throw new EscrowError('invalidArgument', `checker ${name} has no check function`)
    if (this.#checkers.has(name))
      throw new EscrowError('invalidArgument', `checker ${name} is registered already`)
    this.#checkers.set(name, checker)
    this.attach(checker)
  }

  /** Lets a checker do what it does while it is in use. */
  attach(checker: TransactionChecker): void {
    if (checker.attach === undefined || this.#detach.has(checker)) return
    this.#detach.set(checker, checker.attach(this.#runtime))
  }

  removeHandlers(names: Iterable<string>): void {
    for (const name of names) this.#handlers.delete(name)
  }

  removeChecker(name: string): void {
    this.#checkers.delete(name)
  }

  /** The database behind a checker; empty when it has none, or isn't served here. */
  databaseOf(checker: string): string {
    return this.#checkers.get(checker)?.databaseId ?? ''
  }

  /** Gives a message to its handler. */
  deliver(request: DeliverRequest, done: (response: DeliverResponse) => void): void {
    const handler = this.#handlers.get(request.handler)
    if (handler === undefined) {
      done({ outcome: 'failed', error: `there is no handler ${boundedText(request.handler)} here` })
      return
    }
    if (this.#deliveries >= this.#bounds.deliveriesMax) {
      done({ outcome: 'failed', error: `deliveriesMax of ${this.#bounds.deliveriesMax} is reached` })
      return
    }
    this.#deliveries++
    const message = new IncomingMessage(request)
    const finish = this.#begin(request.timeoutMs, (response: DeliverResponse | undefined) => {
      if (response !== undefined) {
        done(response)
        return
      }
      const error = `the handler did not answer within ${request.timeoutMs} ms`
      message.expire(new EscrowError('deadlineExceeded', error))
      // It may have done its work: unknown, not failed.
      done({ outcome: 'unknown', error })
    })
    runHandler(handler, message).then((response) => {
      this.#deliveries--
      finish(response)
    })
  }

  /** Asks a checker. */
  checkBack(request: CheckBackRequest, done: (response: CheckBackResponse) => void): void {
    const checker = this.#checkers.get(request.checker)
    if (checker === undefined) {
      done(unknownAnswer(`there is no checker ${boundedText(request.checker)} here`))
      return
    }
    if (this.#checkBacks >= this.#bounds.checkBacksMax) {
      done(unknownAnswer(`checkBacksMax of ${this.#bounds.checkBacksMax} is reached`))
      return
    }
    this.#checkBacks++
    const finish = this.#begin(request.timeoutMs, (response: CheckBackResponse | undefined) => {
      done(response ?? unknownAnswer(`the checker did not answer within ${request.timeoutMs} ms`))
    })
    withTrace(request.trace, () => askChecker(checker, request)).then((response) => {
      this.#checkBacks--
      finish(response)
    })
  }

  // What is answered late still counts as running above: a handler that hangs takes its place in the window for good.
  #begin<R>(timeoutMs: number, done: (response: R | undefined) => void): (response: R) => void {
    const call: Call = { deadline: this.#runtime.monotonic() + timeoutMs, expire: () => end(undefined) }
    const end = (response: R | undefined): void => {
      if (!this.#calls.delete(call)) return
      done(response)
      if (this.#calls.size === 0) this.#whenIdle?.()
    }
    this.#calls.add(call)
    this.#deadlines.expect(call.deadline)
    return end
  }

  #sweep(now: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const call of this.#calls) {
      if (call.deadline <= now) call.expire()
      else if (call.deadline < next) next = call.deadline
    }
    return next
  }

  /** Resolves when no call is running, at the latest after `timeoutMs`. */
  async idle(timeoutMs: number): Promise<void> {
    if (this.#calls.size === 0) return
    await new Promise<void>((resolve) => {
      const cancel = this.#runtime.setTimer(resolve, timeoutMs)
      this.#whenIdle = () => {
        cancel()
        resolve()
      }
    })
  }

  /** Ends what checkers do while they are in use. */
  stop(): void {
    this.#deadlines.stop()
    for (const detach of this.#detach.values()) detach()
    this.#detach.clear()
  }
}

async function runHandler(handler: MessageHandler, message: IncomingMessage): Promise<DeliverResponse> {
  try {
    await withTrace(message.trace, () => handler(message))
    return DELIVERED
  } catch (error) {
    return { outcome: error instanceof Refusal ? 'refused' : 'failed', error: thrownText(error) }
  }
}
