/**
 * What one turn of a machine wants done, gathered in order from the actions that the machine names.
 *
 * An invocation or a timer of a state that is active is either on or spent (it ended, and its state was not left). Only
 * the few that are spent are kept, so that a turn costs the same however many steps a saga has.
 */
import { EscrowError } from '../errors.ts'
import type { ContextKeeping } from './chart-state.ts'
import { checkJson } from './json.ts'
import type { Branch, Json, SagaAttributes, TurnEffect } from './program.ts'

/** The actions that stand in a driven machine where the definition's has an invoke or enters a parallel state. */
export const START_STEP = 'escrow.startStep'
export const STOP_STEP = 'escrow.stopStep'
export const ENTER_PARALLEL = 'escrow.enterParallel'
export const LEAVE_PARALLEL = 'escrow.leaveParallel'
/** The action by which a hand-written machine sets search attributes: its params. */
export const SET_ATTRIBUTES = 'setAttributes'

type StartStep = Extract<TurnEffect, { type: 'startStep' }>

/** What the timers of `after` begin with: each is an event of its own. */
const AFTER = 'xstate.after.'

/** An invoke of a machine that names a step. */
export interface Invocation {
  readonly id: string
  readonly step: string
  /** Names of the states from the root, with dots. */
  readonly path: string
  /** The parallel states around it, outermost first. */
  readonly around: readonly { readonly parallel: string; readonly region: string }[]
  /** A value, or a function of what xstate gives it. */
  readonly input: unknown
}

/** An action that a machine wants executed. */
export interface ChartAction {
  readonly type: string
  readonly info: { readonly context: unknown; readonly event: unknown; readonly self: unknown }
  readonly params: unknown
}

/** What is kept of the effects of earlier turns. Never changed in place. */
export interface Activity {
  /** Invocations and timers of active states that have ended. */
  readonly spent: ReadonlySet<string>
  /** Timers of delayed raises that are armed, with the event that each raises. */
  readonly raised: ReadonlyMap<string, Json>
  /** Entries into parallel states, counted over all. */
  readonly entries: number
  /** The entry of each parallel state that is active. */
  readonly parallels: ReadonlyMap<string, number>
}

export const NO_ACTIVITY: Activity = { spent: new Set(), raised: new Map(), entries: 0, parallels: new Map() }

/** Gathers the effects of one turn; `activity` is what is kept of it. */
export class TurnDraft {
  readonly #inputIn: ContextKeeping['inputIn']
  #activity: Activity
  #effects: TurnEffect[] = []
  #attributes: SagaAttributes | undefined

  /** `ended` is the invocation or timer whose end makes this turn; `inputIn` finds the saga's input in a context. */
  constructor(activity: Activity, ended: string, inputIn: ContextKeeping['inputIn']) {
    this.#activity = activity
    this.#inputIn = inputIn
    if (ended !== '') this.#spend(ended)
  }

  get activity(): Activity {
    return this.#activity
  }

  get effects(): readonly TurnEffect[] {
    return this.#effects
  }

  get attributes(): SagaAttributes | undefined {
    return this.#attributes
  }

  /** Takes one action. Throws `invalidSaga` for one that can't be durable. */
  take(action: ChartAction): void {
    switch (action.type) {
      case START_STEP:
        return this.#startStep(action.params as Invocation, action.info)
      case STOP_STEP:
        return this.stopStep(action.params as string)
      case ENTER_PARALLEL:
        return this.#enterParallel(action.params as string)
      case LEAVE_PARALLEL:
        return this.#leaveParallel(action.params as string)
      case 'xstate.raise':
        return this.#raise(action.params as { event: { type: string }; id?: string; delay?: number })
      case 'xstate.cancel':
        return this.stopTimer((action.params as { sendId: string }).sendId)
      case SET_ATTRIBUTES:
        return this.setAttributes(action.params)
      case 'xstate.log':
        return
      default:
        throw new EscrowError(
          'invalidSaga',
          `the action ${JSON.stringify(action.type)} can't be durable: make it a step, or an assign`,
          { details: { path: action.type, remedy: 'make it a step, or an assign' } },
        )
    }
  }

  stopStep(invocation: string): void {
    this.#stop(invocation, { type: 'stopStep', invocation })
  }

  stopTimer(timer: string): void {
    if (!timer.startsWith(AFTER)) {
      // A raise that has fired, or that was never armed, leaves nothing to cancel.
      if (!this.#activity.raised.has(timer)) return
      const raised = new Map(this.#activity.raised)
      raised.delete(timer)
      this.#activity = { ...this.#activity, raised }
    }
    this.#stop(timer, { type: 'stopTimer', timer })
  }

  setAttributes(attributes: unknown): void {
    const { businessKey, tags } = parseAttributes(attributes)
    const before = this.#attributes
    this.#attributes = {
      ...before,
      ...(businessKey !== undefined && { businessKey }),
      ...(tags !== undefined && { tags: { ...before?.tags, ...tags } }),
    }
  }

  #startStep(invocation: Invocation, info: ChartAction['info']): void {
    const { id, around } = invocation
    const branch: Branch = around.map(({ parallel, region }) => ({
      parallel,
      entry: this.#activity.parallels.get(parallel) ?? 0,
      region,
    }))
    this.#unspend(id)
    this.#effects.push(startOf(invocation, branch, info, this.#inputIn(info.context)))
  }

  #raise({ event, id, delay }: { event: { type: string }; id?: string; delay?: number }): void {
    // Raised at once: the machine has taken it within this turn.
    if (delay === undefined) return
    if (!Number.isFinite(delay) || delay < 0)
      throw new EscrowError(
        'invalidArgument',
        `the delay of ${JSON.stringify(event.type)} is ${delay}: milliseconds from 0 are allowed`,
      )
    const timer = id ?? event.type
    if (!timer.startsWith(AFTER)) {
      const kept = checkJson(event, `the event of timer ${JSON.stringify(timer)}`) as Json
      this.#activity = { ...this.#activity, raised: new Map(this.#activity.raised).set(timer, kept) }
    }
    this.#unspend(timer)
    this.#effects.push({ type: 'startTimer', timer, delayMs: Math.ceil(delay) })
  }

  #enterParallel(parallel: string): void {
    const entries = this.#activity.entries + 1
    const parallels = new Map(this.#activity.parallels).set(parallel, entries)
    this.#activity = { ...this.#activity, entries, parallels }
  }

  #leaveParallel(parallel: string): void {
    const parallels = new Map(this.#activity.parallels)
    parallels.delete(parallel)
    this.#activity = { ...this.#activity, parallels }
  }

  /** What was started in this very turn was never begun: both effects go. */
  #stop(id: string, effect: TurnEffect): void {
    if (this.#activity.spent.has(id)) return this.#unspend(id)
    const started = this.#effects.findLastIndex((each) => isStartOf(each, id))
    if (started < 0) this.#effects.push(effect)
    else this.#effects.splice(started, 1)
  }

  #spend(id: string): void {
    if (this.#activity.raised.has(id)) {
      const raised = new Map(this.#activity.raised)
      raised.delete(id)
      this.#activity = { ...this.#activity, raised }
    } else {
      this.#activity = { ...this.#activity, spent: new Set(this.#activity.spent).add(id) }
    }
  }

  #unspend(id: string): void {
    if (!this.#activity.spent.has(id)) return
    const spent = new Set(this.#activity.spent)
    spent.delete(id)
    this.#activity = { ...this.#activity, spent }
  }
}

/**
 * The entry into a step, with what it is called with; `sagaInput` is what its saga was started with, which was checked
 * then. Throws what its mapping throws, `invalidArgument`.
 */
export function startOf(
  invocation: Invocation,
  branch: Branch,
  info: ChartAction['info'],
  sagaInput: Json | undefined,
): StartStep {
  const { id, step, input } = invocation
  const given: unknown = typeof input === 'function' ? input(info) : input
  const isSagaInput = typeof given === 'object' && given !== null && given === sagaInput
  if (!isSagaInput) checkJson(given, `the input of step ${JSON.stringify(step)}`)
  return { type: 'startStep', invocation: id, step, input: given as Json | undefined, isSagaInput, branch }
}

function isStartOf(effect: TurnEffect, id: string): boolean {
  return (
    (effect.type === 'startStep' && effect.invocation === id) ||
    (effect.type === 'startTimer' && effect.timer === id)
  )
}

/** Checks search attributes. Throws `invalidArgument`. */
export function parseAttributes(value: unknown): SagaAttributes {
  const { businessKey, tags } = (value ?? {}) as Record<string, unknown>
  const isText = (each: unknown) => typeof each === 'string' && each.isWellFormed()
  if (businessKey !== undefined && !isText(businessKey))
    throw new EscrowError('invalidArgument', 'the search attribute businessKey is no text')
  if (tags !== undefined && (typeof tags !== 'object' || tags === null || !Object.values(tags).every(isText)))
    throw new EscrowError('invalidArgument', 'the search attribute tags is no object of texts')
  return {
    ...(businessKey !== undefined && { businessKey: businessKey as string }),
    ...(tags !== undefined && { tags: tags as Record<string, string> }),
  }
}
