/**
 * Calls of the steps of sagas on their way out of one log, and what else sagas wait for.
 *
 * | what is outstanding | because                                    | goes on when                                          |
 * |---------------------|--------------------------------------------|-------------------------------------------------------|
 * | busy                | a call is decided, or under way            | its outcome comes                                     |
 * | held                | nobody takes it now, or a limit is reached | there is room (`roomAt`), or a later look at limits   |
 * | asleep              | it is not yet due                          | its alarm                                             |
 * | without definition  | the coordinator that runs has none for it  | one that has starts                                   |
 */
import type { DeliverRequest, StepRequest } from '../core/api.ts'
import type { Headers } from '../core/envelope.ts'
import { type Destination, destinationParts, type Namespace } from '../core/ids.ts'
import {
  type SagaCommand,
  type SagaEffect,
  type StepAddress,
  type StepOperation,
  stepRequestOf,
} from '../core/saga/decision.ts'
import type { OperationState } from '../core/saga/image.ts'
import { awaitsOnlyAnswers, outstandingOfSaga } from '../core/saga/outstanding.ts'
import type { StepPolicy } from '../core/saga/program.ts'
import type { LogClock } from '../store/log.ts'
import { type Entry, minus, plus } from './entry.ts'
import type { DeliveryOutcome, Outlet, Route } from './outlet.ts'
import type { Programs } from './programs.ts'
import {
  type AttemptOutcome,
  calledAt,
  commandOf,
  isPublication,
  kindOf,
  outcomeOfCall,
  outcomeOfDelivery,
  receiverOf,
} from './step-calls.ts'
import { StepLimits } from './step-limits.ts'
import type { StepOutlet } from './step-outlet.ts'

interface Place {
  readonly entry: Entry
  readonly code: StepCode
  readonly address: StepAddress
}

/** Held calls of one step to one database, in the order in which they came: if nobody takes the first, nobody takes any. */
type Line = Set<Place>

/** What steps need of their log. */
export interface StepsOptions {
  readonly outlet: Outlet
  readonly stepOutlet: StepOutlet
  readonly programs: Programs
  readonly submit: (entry: Entry, command: SagaCommand) => void
  /** Called when an entry that was pinned may have become idle. */
  readonly released: (entry: Entry) => void
  readonly clock: () => LogClock
  /** How many calls of this log may be held in memory; further ones are postponed in the store. */
  readonly heldMax: number
}

/** An execution and which half of it: `2 n` for its action, `2 n + 1` for its compensation. */
export type StepCode = number

const codeOf = (n: number, operation: StepOperation): StepCode => 2 * n + (operation === 'action' ? 0 : 1)
const operationOf = (code: StepCode): StepOperation => (code % 2 === 0 ? 'action' : 'compensation')
const executionOf = (code: StepCode): number => Math.floor(code / 2)

/** How many held calls one call for room may set going, so that a crowd doesn't outrun the window that it was told of. */
const OFFERED_AT_ONCE_MAX = 256
/** What one look at a saga may decide: more is left to the next one. */
const DECIDED_AT_ONCE_MAX = 64

/** The calls of steps of one log. */
export class Steps {
  readonly #options: StepsOptions
  readonly #limits = new StepLimits()
  /** Held ones by namespace and receiver, then by what else decides who takes them. */
  readonly #held = new Map<string, Map<string, Line>>()
  readonly #places = new Map<Entry, readonly Place[]>()
  #heldCount = 0
  /** Receivers to be looked at again without being told: more was held than was offered, or a limit was reached. */
  readonly #again = new Set<string>()
  /** The saga that is being looked at: what is decided meanwhile doesn't look at it once more. */
  #looking: Entry | undefined

  constructor(options: StepsOptions) {
    this.#options = options
  }

  get heldCount(): number {
    return this.#heldCount
  }

  /** Who would take an attempt now; undefined when nobody would, or a limit is reached. Hot. */
  route(address: StepAddress): Route | undefined {
    const { head, policy, operation, databaseId } = address
    if (!this.#limits.mayStart(head, policy, this.#options.clock().logMs)) {
      this.#again.add(receiverOf(address))
      return undefined
    }
    const known = databaseId === '' ? undefined : databaseId
    if (isPublication(policy, operation))
      return this.#options.outlet.route(head.namespace, policy.destination as Destination, known)
    return this.#options.stepOutlet.routeStep(head.namespace, calledAt(policy, operation), known)
  }

  /** Sees to what is next for a saga; returns the log time of the next thing to do, if any. */
  update(entry: Entry, clock: LogClock): number | undefined {
    if (this.#looking === entry || isAllUnderWay(entry)) return undefined
    const before = this.#looking
    this.#looking = entry
    try {
      return this.#look(entry, clock)
    } finally {
      // Whatever was thrown: a saga that stayed marked here would never be looked at again.
      this.#looking = before
    }
  }

  #look(entry: Entry, clock: LogClock): number | undefined {
    // More is left to the next look, which comes at once.
    let alarmAtMs: number | undefined = clock.logMs
    for (let left = DECIDED_AT_ONCE_MAX; left > 0; left--) {
      if (entry.held.length > 0) this.#letGo(entry, clock)
      const isOver = entry.packed !== undefined
      if (isOver || this.#options.programs.of(entry.saga.head) === undefined) {
        alarmAtMs = undefined
        break
      }
      const { image } = entry
      const nextAtMs = this.#decideDue(entry, clock)
      if (entry.packed !== undefined || entry.image !== image) continue
      // Nothing was due, or what was due changed nothing.
      alarmAtMs = nextAtMs
      break
    }
    return alarmAtMs
  }

  /** Takes out of the lines what isn't to be called any more: its step was stopped, parked, or sent by an operator. */
  #letGo(entry: Entry, clock: LogClock): void {
    for (const place of this.#places.get(entry) ?? []) {
      const half = entry.packed === undefined ? halfOf(entry, place.code) : undefined
      const isDue = half?.status === 'running' && !half.isLater && half.nextAttemptAtMs <= clock.logMs
      if (isDue && !entry.busy.includes(place.code)) continue
      this.#leave(place)
      this.#options.released(entry)
    }
  }

  /** Submits the first thing that is due and changes something; tells when the next one is. */
  #decideDue(entry: Entry, clock: LogClock): number | undefined {
    const { image } = entry
    let alarmAtMs: number | undefined
    for (const due of outstandingOfSaga(entry.saga)) {
      if (due.what === 'step' && this.#isUnderWay(entry, codeOf(due.n, due.operation))) continue
      const atMs = due.clock === 'log' ? due.atMs : due.atMs - clock.wallMs + clock.logMs
      if (atMs > clock.logMs) alarmAtMs = Math.min(alarmAtMs ?? atMs, atMs)
      else if (due.what === 'step') this.#hold(entry, codeOf(due.n, due.operation))
      else this.#options.submit(entry, commandOf(due))
      if (entry.packed !== undefined || entry.image !== image) return undefined
    }
    return alarmAtMs
  }

  #isUnderWay(entry: Entry, code: StepCode): boolean {
    return entry.busy.includes(code) || entry.held.includes(code)
  }

  /** Holds a call that is due, and offers it at once. */
  #hold(entry: Entry, code: StepCode): void {
    const address = this.#addressOf(entry, code)
    if (address === undefined) return
    const place = { entry, code, address }
    if (this.route(address) !== undefined && this.#dispatch(place)) return
    if (this.#heldCount >= this.#options.heldMax) this.#postpone(place)
    else this.#stand(place)
  }

  /** Has a call wait in the store. */
  #postpone({ entry, code }: Place): void {
    const outcome = {
      outcome: 'noSession',
      error: 'nobody takes it, and too many wait in memory',
      isPostponed: true,
    } as const
    const attempt = (halfOf(entry, code)?.attempts ?? 0) + 1
    const n = executionOf(code)
    this.#options.submit(entry, { type: 'answerStep', n, operation: operationOf(code), attempt, outcome })
  }

  /** Puts a call at the end of its line. */
  #stand(place: Place): void {
    const { entry, code, address } = place
    const name = receiverOf(address)
    const lines = this.#held.get(name) ?? new Map<string, Line>()
    this.#held.set(name, lines)
    const kind = kindOf(address)
    lines.set(kind, (lines.get(kind) ?? new Set()).add(place))
    this.#places.set(entry, [...(this.#places.get(entry) ?? []), place])
    entry.held = plus(entry.held, code)
    this.#heldCount += 1
  }

  /** Takes a call out of its line. */
  #leave(place: Place): void {
    const { entry, code, address } = place
    const name = receiverOf(address)
    const kind = kindOf(address)
    const lines = this.#held.get(name)
    const line = lines?.get(kind)
    line?.delete(place)
    if (line?.size === 0) lines?.delete(kind)
    if (lines?.size === 0) this.#held.delete(name)
    const places = this.#places.get(entry)?.filter((each) => each !== place) ?? []
    if (places.length === 0) this.#places.delete(entry)
    else this.#places.set(entry, places)
    entry.held = minus(entry.held, code)
    this.#heldCount -= 1
  }

  #addressOf(entry: Entry, code: StepCode): StepAddress | undefined {
    const { head, state } = entry.saga
    const execution = state.executions.get(executionOf(code))
    const policy = execution && this.#options.programs.of(head)?.steps.get(execution.step)
    if (execution === undefined || policy === undefined) return undefined
    const operation = operationOf(code)
    // A compensation goes where its action went.
    const isSameService = operation === 'action' || policy.compensation?.service === policy.service
    const databaseId = halfOf(entry, code)?.databaseId || (isSameService ? execution.action.databaseId : '')
    return { head, policy, operation, databaseId }
  }

  /** Lets a call be decided; false if nobody takes it after all. */
  #dispatch({ entry, code }: Place): boolean {
    const n = executionOf(code)
    this.#options.submit(entry, { type: 'dispatchStep', n, operation: operationOf(code) })
    return this.#isUnderWay(entry, code) || halfOf(entry, code)?.status !== 'running'
  }

  /** There may be room at a receiver: a participant's step, or a destination. */
  roomAt(namespace: Namespace, receiver: string): void {
    this.#offer(`${namespace} ${receiver}`)
  }

  #offer(name: string): void {
    this.#again.delete(name)
    const lines = this.#held.get(name)
    if (lines === undefined) return
    let offered = 0
    const back: Place[] = []
    for (const line of lines.values()) {
      for (const place of line) {
        if (this.route(place.address) === undefined) break
        if (offered >= OFFERED_AT_ONCE_MAX) {
          this.#again.add(name)
          break
        }
        offered += 1
        this.#leave(place)
        if (!this.#dispatch(place)) back.push(place)
      }
    }
    for (const place of back) this.#stand(place)
  }

  /** Goes on with what wasn't offered at once, and with what a limit held back. */
  sweep(): void {
    for (const name of [...this.#again]) this.#offer(name)
  }

  /** A call is decided, and on its way as soon as that is durable. */
  decided(entry: Entry, effect: SagaEffect): void {
    const code = codeOf(effect.n, effect.type === 'StepCall' ? effect.operation : 'action')
    entry.busy = plus(entry.busy, code)
    if (this.#limits.isUnused) return
    const address = this.#addressOf(entry, code)
    if (address !== undefined) this.#limits.started(address.head, address.policy)
  }

  /** Sends what was decided and is durable now. */
  send(entry: Entry, effect: SagaEffect): void {
    const operation = effect.type === 'StepCall' ? effect.operation : 'action'
    const { head, state } = entry.saga
    const { n, attempt } = effect
    const program = this.#options.programs.of(head)
    const execution = state.executions.get(n)
    const policy = execution && program?.steps.get(execution.step)
    const half = operation === 'action' ? execution?.action : execution?.compensation
    const request = program && stepRequestOf(entry.saga, program, { n, operation, attempt })
    if (policy === undefined || request === undefined || half?.status === 'done') {
      if (policy !== undefined) this.#limits.ended(head, policy)
      this.#done(entry, codeOf(n, operation))
      return
    }
    const databaseId = half?.databaseId ?? ''
    if (isPublication(policy, operation)) {
      const ended = (outcome: DeliveryOutcome) =>
        this.#ended(entry, effect, policy, outcomeOfDelivery(outcome))
      this.#publish(policy.destination as Destination, head.orderingKey, request, { databaseId, ended })
    } else {
      this.#options.stepOutlet.step(request, databaseId, (outcome) =>
        this.#ended(entry, effect, policy, outcomeOfCall(outcome)),
      )
    }
  }

  #ended(entry: Entry, effect: SagaEffect, policy: StepPolicy, outcome: AttemptOutcome): void {
    const { n, attempt } = effect
    const operation = effect.type === 'StepCall' ? effect.operation : 'action'
    if (!this.#limits.isUnused) this.#limits.ended(entry.saga.head, policy)
    this.#done(entry, codeOf(n, operation))
    this.#options.submit(entry, { type: 'answerStep', n, operation, attempt, outcome })
  }

  #publish(
    destination: Destination,
    key: string,
    { namespace, transactionId, executionId, attempt, input, trace, timeoutMs }: StepRequest,
    { databaseId, ended }: { databaseId: string; ended: (outcome: DeliveryOutcome) => void },
  ): void {
    const to = destinationParts(destination)
    const request: DeliverRequest = {
      namespace,
      transactionId,
      executionId,
      attempt,
      service: to.kind === 'participant' ? to.service : to.broker,
      handler: to.kind === 'participant' ? to.handler : to.topic,
      body: input ?? EMPTY,
      headers: NO_HEADERS,
      key,
      contentType: 'application/json',
      trace,
      timeoutMs,
    }
    this.#options.outlet.deliver(destination, request, databaseId, ended)
  }

  #done(entry: Entry, code: StepCode): void {
    entry.busy = minus(entry.busy, code)
    this.#options.released(entry)
  }
}

/** Whether there is nothing to do before an answer comes. */
function isAllUnderWay(entry: Entry): boolean {
  if (entry.packed !== undefined || entry.held.length > 0) return false
  const { active, undoing } = entry.saga.state
  return entry.busy.length === active.length + undoing.length && awaitsOnlyAnswers(entry.saga)
}

const EMPTY = new Uint8Array(0)
const NO_HEADERS: Headers = Object.freeze({})

function halfOf(entry: Entry, code: StepCode): OperationState | undefined {
  const execution = entry.saga.state.executions.get(executionOf(code))
  return operationOf(code) === 'action' ? execution?.action : execution?.compensation
}
