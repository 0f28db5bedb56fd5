/**
 * The only file that knows xstate: everything else sees machines through what is exported here.
 *
 * A definition's machine is never run as it is. It is rewritten, with the same state ids: each invoke becomes an entry
 * and an exit action, and each parallel state names its entries, so that no child actor is ever made and a turn costs
 * about a third of xstate's public `transition()`. It is driven through `machine.transition` with one scope that is made
 * once and collects the actions. That is no documented use of xstate: a test compares it with the public pure functions.
 */
import {
  type AnyStateMachine,
  and,
  assign,
  createActor,
  createMachine,
  fromPromise,
  type PromiseActorLogic,
  stateIn,
} from 'xstate'
import { EscrowError, unreachable } from '../errors.ts'
import {
  type ChartNode,
  ChartState,
  ChartTurn,
  Configuration,
  type ContextKeeping,
  KEEP_ALL,
  type Persisted,
  type Snapshot,
  type Standing,
} from './chart-state.ts'
import {
  type Activity,
  type ChartAction,
  type Invocation,
  NO_ACTIVITY,
  STOP_STEP,
  startOf,
  TurnDraft,
} from './chart-turn.ts'
import { type NodeConfig, Rewriting } from './driven-config.ts'
import { FAILED, whyFailed } from './failure-text.ts'
import { checkJson } from './json.ts'
import type { Json, MachineState, RunningParts, SagaEvent, Turn, TurnEffect } from './program.ts'
import { type KnownTurn, TurnMemory } from './turn-memory.ts'

export type { AnyStateMachine, AnyStateNode } from 'xstate'
export { FAILED } from './failure-text.ts'

/** Microsteps of one turn (`always`, raised events); one more ends the turn with an error, which parks the saga. */
export const MICROSTEPS_MAX = 2_000

const STEP_LOGIC = Symbol('step logic')

/**
 * An actor logic that only names a step, for `setup({ actors: { reserve: stepLogic<Result, Input>() } })`: it gives the
 * machine its types. The step itself runs at its participant; started in this process, it fails.
 */
export function stepLogic<Result = Json | undefined, Input = Json | undefined>(): PromiseActorLogic<
  Result,
  Input
> {
  const logic = fromPromise<Result, Input>(() => Promise.reject(new Error('a step runs at its participant')))
  return Object.assign(logic, { [STEP_LOGIC]: true })
}

/** Whether an actor logic is one that only names a step. */
export const isStepLogic = (logic: unknown): boolean =>
  typeof logic === 'object' && logic !== null && STEP_LOGIC in logic

/** Whether a value is a machine that xstate made. */
export const isMachine = (value: unknown): value is AnyStateMachine =>
  typeof value === 'object' && value !== null && '__xstatenode' in value && 'config' in value

/** What a compiled configuration names. An action gives what it changes of the context. */
export interface CompiledImplementations<Context> {
  readonly guards: Readonly<Record<string, (given: { context: Context }) => boolean>>
  readonly actions: Readonly<Record<string, (context: Context, event: never) => object>>
  readonly actors: Readonly<Record<string, unknown>>
}

/** Makes a machine of a configuration that a flow or a routing slip was compiled to. */
export function compileMachine<Context>(
  config: object,
  { guards, actions, actors }: CompiledImplementations<Context>,
): AnyStateMachine {
  const assigned = Object.entries(actions).map(([name, change]) => [
    name,
    assign(({ context, event }: { context: Context; event: unknown }) => change(context, event as never)),
  ])
  const implementations = { guards, actors, actions: Object.fromEntries(assigned) }
  return createMachine(config as never, implementations as never) as unknown as AnyStateMachine
}

/** A guard that holds while all of these states are active, each named as in `#id.path`. */
export const inStates = (states: readonly string[]): unknown => and(states.map((state) => stateIn(state)))

/** The part of xstate's machines that is driven. */
interface DrivenMachine {
  getInitialSnapshot(scope: object, input: unknown): Snapshot
  transition(snapshot: Snapshot, event: object, scope: object): Snapshot
  restoreSnapshot(snapshot: object, scope: object): Snapshot
}

/** How a machine is driven. */
export interface ChartOptions {
  readonly keeping?: ContextKeeping
  /** It was compiled of a flow or a slip: turns that depend on nothing but where it stands are remembered. */
  readonly isCompiled?: boolean
}

/** A machine that is driven turn by turn. Pure but for one buffer that is empty between turns, and what it remembers. */
export class Statechart {
  /** Every invoke of the machine, by its id. */
  readonly invocations: ReadonlyMap<string, Invocation>
  readonly #machine: DrivenMachine
  readonly #keeping: ContextKeeping
  readonly #memory: TurnMemory | undefined
  readonly #scope: { readonly self: unknown }
  #draft: TurnDraft
  /** The turn under way asked a guard. */
  #hasAsked = false
  /** What a guard threw: xstate wraps it without its stack. */
  #thrown: { readonly error: unknown } | undefined

  constructor(machine: AnyStateMachine, { keeping = KEEP_ALL, isCompiled = false }: ChartOptions = {}) {
    const rewriting = new Rewriting(machine.id)
    const config = rewriting.node(machine.config as unknown as NodeConfig, [], [])
    const own = (machine.options as { maxIterations?: number }).maxIterations ?? Number.POSITIVE_INFINITY
    const options = { ...(config.options as object), maxIterations: Math.min(own, MICROSTEPS_MAX) }
    const { guards } = machine.implementations as { guards: Readonly<Record<string, unknown>> }
    const caught = Object.entries(guards).map(([name, guard]) => [name, this.#catching(guard)])
    const implementations = { ...machine.implementations, guards: Object.fromEntries(caught), actors: {} }
    const driven = createMachine({ ...config, options } as never, implementations as never)
    this.#catchInline(driven.root as unknown as ChartNode)
    this.#machine = driven as never
    this.#keeping = keeping
    this.#draft = this.#drafted(NO_ACTIVITY, '')
    this.#memory = isCompiled ? new TurnMemory() : undefined
    this.invocations = rewriting.invocations
    // An actor of an empty machine: one of the definition's own would run user code here, with no input.
    const self = createActor(createMachine({}))
    const scope = {
      self,
      system: self.system,
      id: self.id,
      sessionId: self.sessionId,
      logger: () => {},
      defer: () => {},
      emit: () => {},
      stopChild: () => {},
      actionExecutor: (action: ChartAction) => this.#draft.take(action),
    }
    this.#scope = scope
  }

  /** The first turn. */
  start(input: Json | undefined): ChartTurn {
    const known = this.#memory?.start
    // The context of a compiled machine begins as one that is revived: with the input alone.
    if (known !== undefined) return this.#again(known, this.#keeping.revive(undefined, input), undefined)
    this.#draft = this.#drafted(NO_ACTIVITY, '')
    const snapshot = this.#guarded(() => this.#machine.getInitialSnapshot(this.#scope, input))
    // xstate catches what user code throws at the start.
    if (snapshot.status === 'error') throw snapshot.error
    const turn = this.#turn(snapshot, undefined, undefined)
    if (this.#memory !== undefined && this.#isAnybodys && this.#keeping.keep(snapshot.context) === undefined)
      this.#memory.start = knownOf(turn)
    return turn
  }

  /** The next turn, from a state that `start`, `next` or `restore` of this very machine gave. */
  next(state: MachineState, event: SagaEvent): ChartTurn {
    const { configuration, context } = state as ChartState
    const known = this.#memory?.recall(configuration, event)
    if (known !== undefined) return this.#again(known, context, event)
    const { activity } = configuration
    const before = configuration.snapshotWith(context)
    this.#draft = this.#drafted(activity, endedBy(event))
    const given = chartEvent(event, activity)
    const next = this.#guarded(() => this.#machine.transition(before, given, this.#scope))
    const turn = this.#turn(next, before, event)
    if (this.#isAnybodys && next.context === context)
      this.#memory?.remember(configuration, event, knownOf(turn))
    return turn
  }

  /** Whether the turn that was just taken is the same for every saga that stands there with the same context. */
  get #isAnybodys(): boolean {
    return !this.#hasAsked && this.#draft.attributes === undefined
  }

  /** A turn that another saga has taken from here. */
  #again(known: KnownTurn, context: unknown, event: SagaEvent | undefined): ChartTurn {
    const { to, status, effects, startsSteps } = known
    const state = new ChartState(to, context, this.#keeping)
    const told =
      status === 'failed' ? { error: whyFailed(to.snapshot, event, this.invocations) } : NOTHING_TOLD
    return new ChartTurn(state, status, startsSteps ? this.#startAgain(effects, context) : effects, told)
  }

  /** The same effects for another saga: its steps have inputs of their own. */
  #startAgain(effects: readonly TurnEffect[], context: unknown): readonly TurnEffect[] {
    const info = { context, event: undefined, self: this.#scope.self }
    const input = this.#keeping.inputIn(context)
    const started = effects.slice()
    for (const [at, effect] of effects.entries()) {
      if (effect.type !== 'startStep') continue
      const invocation = this.invocations.get(effect.invocation) as Invocation
      started[at] = startOf(invocation, effect.branch, info, input)
    }
    return started
  }

  #drafted(activity: Activity, ended: string): TurnDraft {
    return new TurnDraft(activity, ended, this.#keeping.inputIn)
  }

  /** Takes back a persisted state. Throws `invalidArgument` where it doesn't fit this machine. */
  restore(persisted: Json, input: Json | undefined): MachineState {
    const kept = persisted as unknown as Persisted
    const history = Object.entries(kept.history ?? {}).map(([id, nodes]) => [
      id,
      nodes.map((node) => ({ id: node })),
    ])
    const stored = {
      status: 'active',
      value: kept.value,
      context: this.#keeping.revive(kept.context, input),
      children: {},
      historyValue: Object.fromEntries(history),
    }
    try {
      return this.#state(this.#machine.restoreSnapshot(stored, this.#scope), {
        spent: new Set(kept.spent),
        raised: new Map(Object.entries(kept.raised ?? {})),
        entries: kept.entries ?? 0,
        parallels: new Map(Object.entries(kept.parallels ?? {})),
      })
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause)
      throw new EscrowError('invalidArgument', `a stored state does not fit this machine: ${why}`, { cause })
    }
  }

  #state(snapshot: Snapshot, activity: Activity): ChartState {
    const configuration = new Configuration(snapshot, activity)
    const unique = this.#memory?.unique(configuration) ?? configuration
    return new ChartState(unique, snapshot.context, this.#keeping)
  }

  /** The machine's own context. */
  contextOf(state: MachineState): unknown {
    return (state as ChartState).context
  }

  /** Whether a state waits for this signal. */
  takes(state: MachineState, signal: string): boolean {
    return (state as ChartState).takes(signal)
  }

  /** What of a state runs: invocations and timers that are not spent. */
  running(state: MachineState): RunningParts {
    const { configuration } = state as ChartState
    const draft = this.#drafted(configuration.activity, '')
    stopAll(configuration.snapshot, draft)
    return {
      invocations: draft.effects.flatMap((each) => (each.type === 'stopStep' ? [each.invocation] : [])),
      timers: draft.effects.flatMap((each) => (each.type === 'stopTimer' ? [each.timer] : [])),
    }
  }

  #turn(snapshot: Snapshot, before: Snapshot | undefined, event: SagaEvent | undefined): ChartTurn {
    const draft = this.#draft
    if (snapshot.context !== before?.context) this.#checkContext(snapshot)
    const status = statusOf(snapshot)
    // A machine that is done has run all exit actions; nothing else stops what a failed one leaves behind.
    if (status !== 'active') stopAll(snapshot.status === 'done' ? undefined : snapshot, draft)
    const output = status === 'completed' ? (snapshot.output as Json | undefined) : undefined
    const error = status === 'failed' ? whyFailed(snapshot, event, this.invocations) : ''
    const { activity, effects, attributes } = draft
    return new ChartTurn(this.#state(snapshot, activity), status, effects, { output, error, attributes })
  }

  #checkContext(snapshot: Snapshot): void {
    // A child that user code spawned would not come back after a crash.
    if (Object.keys(snapshot.children).length > 0)
      throw new EscrowError('invalidSaga', 'an assign spawned an actor, which is not durable: invoke a step')
    checkJson(this.#keeping.keep(snapshot.context), 'the context of the machine')
  }

  #guarded(turn: () => Snapshot): Snapshot {
    this.#thrown = undefined
    this.#hasAsked = false
    try {
      return turn()
    } catch (error) {
      const { error: cause } = this.#thrown ?? { error }
      throw cause
    }
  }

  /** The same for guards that stand in the machine themselves. */
  #catchInline(node: ChartNode): void {
    for (const candidates of node.transitions.values())
      for (const candidate of candidates) candidate.guard = this.#catching(candidate.guard)
    for (const child of Object.values(node.states)) this.#catchInline(child)
  }

  #catching(guard: unknown): unknown {
    // A built-in guard (and, or, not, stateIn) carries a `check` and calls the named ones itself.
    if (typeof guard !== 'function' || 'check' in guard) return guard
    return (...given: unknown[]) => {
      this.#hasAsked = true
      try {
        return guard(...given)
      } catch (error) {
        this.#thrown = { error }
        throw error
      }
    }
  }
}

const NOTHING_TOLD = {}

const knownOf = ({ state, status, effects }: Turn): KnownTurn => ({
  to: (state as ChartState).configuration,
  status,
  effects,
  startsSteps: effects.some(({ type }) => type === 'startStep'),
})

function statusOf({ status, tags }: Snapshot): Turn['status'] {
  if (tags.has(FAILED) || status === 'error') return 'failed'
  return status === 'done' ? 'completed' : 'active'
}

function stopAll(snapshot: Standing | undefined, draft: TurnDraft): void {
  for (const node of snapshot?._nodes ?? []) {
    for (const action of node.exit) {
      if (action.type === STOP_STEP) draft.stopStep(action.params as string)
      // The exit action of `after`: a built-in action, whose id stands on it.
      if (action.type === 'xstate.cancel' && typeof action.sendId === 'string') draft.stopTimer(action.sendId)
    }
  }
  for (const timer of draft.activity.raised.keys()) draft.stopTimer(timer)
}

const endedBy = (event: SagaEvent): string => {
  if (event.type === 'timer') return event.timer
  return event.type === 'signal' ? '' : event.invocation
}

function chartEvent(event: SagaEvent, activity: Activity): object {
  switch (event.type) {
    case 'stepDone':
      return {
        type: `xstate.done.actor.${event.invocation}`,
        output: event.result,
        actorId: event.invocation,
      }
    case 'stepFailed':
      return {
        type: `xstate.error.actor.${event.invocation}`,
        error: event.error,
        actorId: event.invocation,
      }
    case 'timer':
      return (activity.raised.get(event.timer) as object | undefined) ?? { type: event.timer }
    case 'signal':
      if (/^(xstate|escrow)\./.test(event.signal))
        throw new EscrowError('unknownSignal', `no signal may be named ${JSON.stringify(event.signal)}`)
      return { type: event.signal, payload: event.payload }
    default:
      return unreachable(event)
  }
}
