import type {
  CheckBackRequest,
  CheckBackResponse,
  DeliverRequest,
  DeliverResponse,
  StepRequest,
  StepResponse,
} from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { parseName } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import { checkSchema } from '../core/saga/schema.ts'
import { askChecker, type TransactionChecker, unknownAnswer } from './checker.ts'
import { Deadlines } from './deadlines.ts'
import { IncomingMessage, type MessageHandler } from './received-message.ts'
import { boundedText, Refusal, thrownText } from './refusal.ts'
import { runStep, type StepBarrier } from './run-step.ts'
import { IncomingStep, type Step } from './step.ts'
import { withTrace } from './tracing.ts'

/** What a participant does, by name: a function takes messages, an object with `action` or `compensation` is a step of sagas. */
export type Handlers = Readonly<Record<string, MessageHandler | Step>>

/** How many calls may run at once, of each class. */
export interface ServingBounds {
  readonly deliveriesMax: number
  readonly checkBacksMax: number
  readonly stepsMax: number
}

interface Call {
  readonly deadline: number
  expire(): void
}

const DELIVERED: DeliverResponse = { outcome: 'delivered', error: '' }

/** The barrier behind handlers and steps. */
export interface BarrierOfHandlers extends Partial<StepBarrier> {
  readonly databaseId: string
  readonly checker?: TransactionChecker | undefined
}

interface ServedStep {
  readonly step: Step
  readonly barrier: BarrierOfHandlers | undefined
}

/**
 * Runs handlers, steps and checkers. Every call is answered exactly once, at the latest when its time has passed; what a handler
 * says after that is dropped. No method throws.
 */
export class Serving {
  readonly #runtime: Runtime
  readonly #bounds: ServingBounds
  readonly #handlers = new Map<string, MessageHandler>()
  readonly #steps = new Map<string, ServedStep>()
  readonly #checkers = new Map<string, TransactionChecker>()
  readonly #detach = new Map<TransactionChecker, () => void>()
  readonly #calls = new Set<Call>()
  readonly #deadlines: Deadlines
  #deliveries = 0
  #checkBacks = 0
  #runningSteps = 0
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

  /** Serves these handlers and steps from now on. Throws `invalidArgument`, also for a name that is taken. */
  addHandlers(handlers: Handlers, barrier?: BarrierOfHandlers): void {
    const { messages, steps } = parseHandlers(handlers)
    for (const [name] of messages) {
      if (this.#handlers.has(name))
        throw new EscrowError('invalidArgument', `handler ${name} is registered already`)
    }
    for (const [name] of steps) {
      if (this.#steps.has(name))
        throw new EscrowError('invalidArgument', `step ${name} is registered already`)
    }
    for (const [name, handler] of messages) this.#handlers.set(name, handler)
    for (const [name, step] of steps) this.#steps.set(name, { step, barrier })
    if (barrier?.checker !== undefined) this.attach(barrier.checker)
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

  removeHandlers(handlers: Handlers): void {
    for (const [name, handler] of Object.entries(handlers))
      (typeof handler === 'function' ? this.#handlers : this.#steps).delete(name)
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

  /** Runs a step, or undoes it. */
  step(request: StepRequest, done: (response: StepResponse) => void): void {
    const failed = (code: string, error: string): void =>
      done({ outcome: 'failed', result: undefined, code, error })
    const served = this.#steps.get(request.step)
    if (served === undefined)
      return failed('unknownStep', `there is no step ${boundedText(request.step)} here`)
    const { stepsMax } = this.#bounds
    if (this.#runningSteps >= stepsMax) return failed('overloaded', `stepsMax of ${stepsMax} is reached`)
    this.#runningSteps++
    const call = new IncomingStep(request)
    const finish = this.#begin(request.timeoutMs, (response: StepResponse | undefined) => {
      if (response !== undefined) return done(response)
      const error = `the step did not answer within ${request.timeoutMs} ms`
      call.expire(new EscrowError('deadlineExceeded', error))
      // It may have done its work: unknown, not failed.
      done({ outcome: 'unknown', result: undefined, code: '', error })
    })
    runStep(served.step, call, served.barrier).then((response) => {
      this.#runningSteps--
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

/** The names under which handlers are registered. */
export function namesOf(handlers: Handlers): { readonly handlers: string[]; readonly steps: string[] } {
  const entries = Object.entries(handlers)
  const names = (isStep: boolean): string[] =>
    entries.filter(([, each]) => (typeof each === 'object') === isStep).map(([name]) => name)
  return { handlers: names(false), steps: names(true) }
}

function parseHandlers(handlers: Handlers) {
  const messages: [string, MessageHandler][] = []
  const steps: [string, Step][] = []
  for (const [name, handler] of Object.entries(handlers)) {
    if (typeof handler === 'function') {
      parseName('handler', name)
      messages.push([name, handler])
    } else {
      parseName('step', name)
      checkStep(name, handler)
      steps.push([name, handler])
    }
  }
  return { messages, steps }
}

function checkStep(name: string, step: Step): void {
  const isFunction = (part: unknown): boolean => part === undefined || typeof part === 'function'
  const { action, compensation } = step ?? {}
  if ((action ?? compensation) === undefined || !isFunction(action) || !isFunction(compensation)) {
    throw new EscrowError(
      'invalidArgument',
      `${name} is neither a function, which takes messages, nor a step with an action or a compensation`,
    )
  }
  for (const part of ['input', 'result'] as const) {
    if (step[part] !== undefined) checkSchema(step[part], `the ${part} of step ${name}`)
  }
}
