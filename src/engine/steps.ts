/**
 * Calls of the steps of sagas on their way out of one log, and what else sagas wait for.
 *
 * | what is outstanding | because                                    | goes on when                                          |
 * |---------------------|--------------------------------------------|-------------------------------------------------------|
 * | busy                | a call is decided, or under way            | its outcome comes                                     |
 * | held                | nobody takes it now, or a limit is reached | there is room: of a receiver (`roomAt`), at a `Gate`  |
 * | asleep              | it is not yet due                          | its alarm                                             |
 * | without definition  | the coordinator that runs has none for it  | one that has starts                                   |
 */
import type { Destination, Namespace } from '../core/ids.ts'
import { type SagaCommand, type SagaEffect, type StepAddress, stepRequestOf } from '../core/saga/decision.ts'
import type { OperationState } from '../core/saga/image.ts'
import { awaitsOnlyAnswers, outstandingOfSaga } from '../core/saga/outstanding.ts'
import type { LogClock } from '../store/log.ts'
import { Admissions } from './admissions.ts'
import { type Entry, minus, plus } from './entry.ts'
import { byRank, type Gate, Gates, type ParticipantGates, WaitingLine } from './gates.ts'
import type { Outlet, Route } from './outlet.ts'
import type { Programs } from './programs.ts'
import {
  type AttemptOutcome,
  calledAt,
  codeOf,
  commandOf,
  executionOf,
  isPublication,
  kindOf,
  operationOf,
  outcomeOfCall,
  outcomeOfDelivery,
  publicationOf,
  receiverOf,
  type StepCode,
} from './step-calls.ts'
import type { StepOutlet } from './step-outlet.ts'

interface Place {
  readonly entry: Entry
  readonly code: StepCode
  readonly address: StepAddress
}

/** Held calls of one step to one database, in the order in which they came: if nobody takes the first, nobody takes any. */
type Line = WaitingLine<Place>

/** What steps need of their log. */
export interface StepsOptions {
  readonly outlet: Outlet
  readonly stepOutlet: StepOutlet
  readonly programs: Programs
  readonly participantGates: ParticipantGates
  readonly submit: (entry: Entry, command: SagaCommand) => void
  /** Called when an entry that was pinned may have become idle. */
  readonly released: (entry: Entry) => void
  readonly clock: () => LogClock
  /** How many calls of this log may be held in memory; further ones are postponed in the store. */
  readonly heldMax: number
}

/** How many held calls one call for room may set going, so that a crowd doesn't outrun the window that it was told of. */
const OFFERED_AT_ONCE_MAX = 256
/** What one look at a saga may decide: more is left to the next one. */
const DECIDED_AT_ONCE_MAX = 64

/** The calls of steps of one log. */
export class Steps {
  readonly #options: StepsOptions
  readonly #gates: Gates
  /** Held ones by namespace and receiver, then by what else decides who takes them. */
  readonly #held = new Map<string, Map<string, Line>>()
  readonly #places = new Map<Entry, readonly Place[]>()
  #heldCount = 0
  /** Receivers to be looked at again without being told: more was held than was offered. */
  readonly #again = new Set<string>()
  readonly #admissions = new Admissions()
  /** The gate that turned the last call away; undefined where nobody took it, or somebody did. */
  #turnedAwayBy: Gate | undefined
  /** A gate gives room to a line: it needn't wait behind others again. */
  #isServed = false
  /** The saga that is being looked at: what is decided meanwhile doesn't look at it once more. */
  #looking: Entry | undefined

  constructor(options: StepsOptions) {
    this.#options = options
    this.#gates = new Gates(options.participantGates)
  }

  get heldCount(): number {
    return this.#heldCount
  }

  /** Who would take an attempt now; undefined when nobody would, or a limit is reached. Hot. */
  route(address: StepAddress): Route | undefined {
    const { head, policy, operation, databaseId } = address
    this.#turnedAwayBy = undefined
    for (const gate of this.#gates.of(address)) {
      const { nowMs } = this.#gates
      if (this.#isServed ? gate.isOpen(nowMs) : gate.admits(operation === 'compensation', nowMs)) continue
      this.#turnedAwayBy = gate
      return undefined
    }
    const known = databaseId === '' ? undefined : databaseId
    if (isPublication(policy, operation))
      return this.#options.outlet.route(head.namespace, policy.destination as Destination, known)
    return this.#options.stepOutlet.routeStep(head.namespace, calledAt(policy, operation), known)
  }

  /** The same for a decision that lets the call leave if there is one. */
  enter(address: StepAddress): Route | undefined {
    const route = this.route(address)
    if (route !== undefined) this.#admissions.enter(this.#gates.of(address))
    return route
  }

  /** The decision under way came to nothing after all. */
  undecided(): void {
    this.#admissions.undecided()
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
    const isTaken = this.route(address) !== undefined
    const gate = this.#turnedAwayBy
    if (isTaken && this.#dispatch(place)) return
    if (this.#heldCount >= this.#options.heldMax) this.#postpone(place)
    else this.#stand(place, gate)
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

  /** Puts a call at the end of its line, which waits at the gate that turned it away. */
  #stand(place: Place, gate?: Gate): void {
    const { entry, code, address } = place
    const name = receiverOf(address)
    const lines = this.#held.get(name) ?? new Map<string, Line>()
    this.#held.set(name, lines)
    const kind = kindOf(address)
    const line =
      lines.get(kind) ??
      new WaitingLine(address.operation === 'compensation', (each) => this.#offerFirst(each))
    lines.set(kind, line.add(place))
    if (line.gate === undefined) gate?.wait(line)
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
    if (line?.size === 0) {
      line.gate?.forget(line)
      lines?.delete(kind)
    }
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
    // What undoes goes first.
    for (const line of byRank([...lines.values()])) {
      for (const place of line) {
        if (this.route(place.address) === undefined) {
          if (line.gate === undefined) this.#turnedAwayBy?.wait(line)
          break
        }
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

  /** A gate has room for the first of a line. False where the line is empty then, or waits for something else. */
  #offerFirst(line: Line): boolean {
    const [place] = line
    if (place === undefined) return false
    this.#isServed = true
    try {
      if (this.route(place.address) === undefined) {
        this.#turnedAwayBy?.wait(line)
        return false
      }
      this.#leave(place)
      if (this.#dispatch(place)) return line.size > 0
    } finally {
      this.#isServed = false
    }
    this.#stand(place)
    this.#again.add(receiverOf(place.address))
    return false
  }

  /** Goes on with what wasn't offered at once, and with what a limit held back. */
  sweep(): void {
    for (const name of [...this.#again]) this.#offer(name)
    this.#gates.sweep()
  }

  /** The log is no longer this one's to run: neither what it has under way nor what waits counts for any gate. */
  stop(): void {
    this.#admissions.stop()
    for (const lines of this.#held.values()) for (const line of lines.values()) line.gate?.forget(line)
  }

  /** A call is decided, and on its way as soon as that is durable. */
  decided(entry: Entry, effect: SagaEffect): void {
    const code = codeOf(effect.n, effect.type === 'StepCall' ? effect.operation : 'action')
    entry.busy = plus(entry.busy, code)
    this.#admissions.decided(entry, code)
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
      this.#gates.serve(this.#done(entry, codeOf(n, operation)))
      return
    }
    const databaseId = half?.databaseId ?? ''
    const { outlet, stepOutlet } = this.#options
    if (isPublication(policy, operation)) {
      const destination = policy.destination as Destination
      outlet.deliver(
        destination,
        publicationOf(request, destination, head.orderingKey),
        databaseId,
        (outcome) => this.#ended(entry, effect, outcomeOfDelivery(outcome)),
      )
    } else {
      stepOutlet.step(request, databaseId, (outcome) => this.#ended(entry, effect, outcomeOfCall(outcome)))
    }
  }

  #ended(entry: Entry, effect: SagaEffect, outcome: AttemptOutcome): void {
    const { n, attempt } = effect
    const operation = effect.type === 'StepCall' ? effect.operation : 'action'
    const left = this.#done(entry, codeOf(n, operation))
    this.#options.submit(entry, { type: 'answerStep', n, operation, attempt, outcome })
    // Only now, so that what undoes the same saga next goes before the actions that wait.
    this.#gates.serve(left)
  }

  #done(entry: Entry, code: StepCode): readonly Gate[] {
    entry.busy = minus(entry.busy, code)
    this.#options.released(entry)
    return this.#admissions.exit(entry, code)
  }
}

/** Whether there is nothing to do before an answer comes. */
function isAllUnderWay(entry: Entry): boolean {
  if (entry.packed !== undefined || entry.held.length > 0) return false
  const { active, undoing } = entry.saga.state
  return entry.busy.length === active.length + undoing.length && awaitsOnlyAnswers(entry.saga)
}

function halfOf(entry: Entry, code: StepCode): OperationState | undefined {
  const execution = entry.saga.state.executions.get(executionOf(code))
  return operationOf(code) === 'action' ? execution?.action : execution?.compensation
}
