/** What a flow is made of, and the functions that a definition's `flow` is given to build one. */
import { EscrowError } from '../errors.ts'
import { parseName } from '../ids.ts'
import type { AnyStepRef, StepName, StepRef, StepSettings } from './policy.ts'
import type { Json, SagaAttributes } from './program.ts'
import { checkSchema, type StandardSchema } from './schema.ts'

const RESULT: unique symbol = Symbol('result')

/** What mappings and guards see. They must be pure: no clock, no randomness, nothing but this. */
export interface FlowContext<Input> {
  /** What the saga (or sub-saga) was started with, as its schema has it. */
  readonly input: Input
  readonly results: FlowResults
}

/**
 * The results of what has been done, by what `step`, `pivot`, `waitFor` or `sub` returned, or by a step's name. What
 * wasn't done on this path has none: `maybe` says so in its type, the call itself doesn't.
 */
export interface FlowResults {
  <Result>(of: Handle<Result>): Result
  (step: string): Json | undefined
  maybe<Result>(of: Handle<Result>): Result | undefined
}

/** Something in a flow that gives a result. */
export interface Handle<Result> {
  readonly name: string
  readonly [RESULT]?: Result
}

/** What a step's `attributes` see: its own result too. */
export interface DoneContext<Input, Result> extends FlowContext<Input> {
  readonly result: Result
}

/** A function of what has been given and done. */
export type Mapping<Input, Value> = (context: FlowContext<Input>) => Value

/** A sequence; it may nest. */
export type Flow = FlowNode | readonly Flow[]

/** One part of a flow. */
export type FlowNode = StepNode | ParallelNode | ChoiceNode | LoopNode | WaitNode | DelayNode | SubNode

/** A step, the pivot, or a message. */
export interface StepNode<Result = unknown> extends Handle<Result> {
  readonly kind: 'step'
  readonly action: AnyStepRef | StepName | undefined
  readonly destination: string
  readonly isPivot: boolean
  readonly settings: StepSettings
  readonly input: Mapping<never, unknown> | undefined
  readonly inputSchema: StandardSchema | undefined
  readonly result: StandardSchema | undefined
  readonly attributes: ((context: DoneContext<never, never>) => SagaAttributes) | undefined
}

export interface ParallelNode {
  readonly kind: 'parallel'
  readonly name: string
  readonly branches: readonly Flow[]
  /** Branches that begin when other branches of one step are done: names, by their first step. Only routing slips have it. */
  readonly waits?: ReadonlyMap<string, readonly string[]>
}

export interface ChoiceNode {
  readonly kind: 'choice'
  readonly name: string
  readonly branches: readonly { readonly when: Mapping<never, boolean>; readonly flow: Flow }[]
  readonly otherwise: Flow
}

export interface LoopNode {
  readonly kind: 'loop'
  readonly name: string
  readonly while: Mapping<never, boolean>
  readonly max: number
  readonly onMax: 'fail' | 'continue'
  readonly flow: Flow
}

export interface WaitNode<Payload = unknown> extends Handle<Payload> {
  readonly kind: 'wait'
  readonly signal: string
  readonly timeoutMs: number
  readonly onTimeout: 'fail' | Flow
}

export interface DelayNode {
  readonly kind: 'delay'
  readonly name: string
  readonly delayMs: number
}

export interface SubNode<Output = unknown> extends Handle<Output> {
  readonly kind: 'sub'
  readonly saga: FlowSource
  readonly input: Mapping<never, unknown> | undefined
}

/** A definition as its author wrote it: what a sub-saga is inlined from. */
export interface FlowSource {
  readonly name: string
  readonly version: number
  readonly input: StandardSchema | undefined
  readonly signals: ReadonlyMap<string, StandardSchema | undefined>
  readonly output: Mapping<never, unknown> | undefined
  /** What it sets of a saga as a whole, by the names of its options: no part of another saga can have that. */
  readonly ofItsOwn: readonly string[]
  readonly flow: Flow
}

/** What `step` takes. `input` may be left out where the saga's own input is what the step takes. */
export type StepOptions<SagaInput, Input, Result> = StepBasics<SagaInput, Input, Result> &
  ([SagaInput] extends [NoInfer<Input>]
    ? { readonly input?: Mapping<SagaInput, NoInfer<Input>> | undefined }
    : { readonly input: Mapping<SagaInput, NoInfer<Input>> })

interface StepBasics<SagaInput, Input, Result> extends StepSettings {
  readonly action: StepRef<Input, Result> | StepName
  /** Checks the result before it is stored; default: the validator of the action's ref, if it has one. */
  readonly result?: StandardSchema<unknown, Result> | undefined
  /** Search attributes to set when the step is done. */
  readonly attributes?: ((context: DoneContext<SagaInput, NoInfer<Result>>) => SagaAttributes) | undefined
}

/** A pivot needs no way back: it did nothing if it fails. */
interface PivotSettings {
  readonly compensation?: never
  readonly irreversible?: never
  readonly readOnly?: never
}

/** What `waitFor` takes. The deadline is required: nothing waits for ever. */
export interface WaitOptions {
  /** Milliseconds of log time, from 1 ms to 366 days. */
  readonly timeoutMs: number
  /** `fail` compensates; a flow is done instead, and then what follows the wait. */
  readonly onTimeout: 'fail' | Flow
}

/** What a definition's `flow` is given. A flow is an array: one after another. */
export interface FlowBuilders<SagaInput, Signals> {
  /** Calls a participant's step. Behind the pivot it is tried until it is done. */
  step<Input = unknown, Result = Json | undefined>(
    name: string,
    options: StepOptions<SagaInput, Input, Result>,
  ): StepNode<Result>
  /** The step that decides: once it is sent there is no way back, unless its participant refuses it. */
  pivot<Input = unknown, Result = Json | undefined>(
    name: string,
    options: StepOptions<SagaInput, Input, Result> & PivotSettings,
  ): StepNode<Result>
  /** All at once; goes on when all are done. */
  parallel(...branches: readonly Flow[]): ParallelNode
  /** The first branch whose `when` holds; else `otherwise`, which is empty by default. */
  choice(
    branches: readonly { readonly when: Mapping<SagaInput, boolean>; readonly flow: Flow }[],
    otherwise?: Flow,
  ): ChoiceNode
  /** Repeats while `while` holds, at most `max` times (1-10,000); then it fails, or goes on with `onMax: 'continue'`. */
  loop(options: {
    readonly while: Mapping<SagaInput, boolean>
    readonly max: number
    readonly onMax?: 'fail' | 'continue'
    readonly flow: Flow
  }): LoopNode
  /** Waits for a signal, or takes one that came early. Its payload is the result. */
  waitFor<Signal extends keyof Signals & string>(
    signal: Signal,
    options: WaitOptions,
  ): WaitNode<Signals[Signal] extends StandardSchema<unknown, infer Payload> ? Payload : Json | undefined>
  /** Waits; milliseconds of log time, from 1 ms to 366 days. */
  delay(delayMs: number): DelayNode
  /**
   * Another saga in the place of one step: its steps are this saga's, named `name/step`. One with a `timeoutMs` or
   * `attributes` of its own is refused: those are of a saga as a whole.
   */
  sub<Input, Output>(
    saga: { readonly source: FlowSource; readonly types?: (input: Input) => Output },
    options?: { readonly name?: string; readonly input?: Mapping<SagaInput, NoInfer<Input>> },
  ): SubNode<Output>
  /** Sends a transaction message, only behind the pivot: a message can't be unsent. */
  send(
    name: string,
    options: { readonly to: string; readonly body?: Mapping<SagaInput, unknown> } & Pick<
      StepSettings,
      'retry' | 'attemptTimeoutMs' | 'concurrencyMax' | 'ratePerSecond'
    >,
  ): StepNode<undefined>
}

/** Iterations of one loop. */
export const LOOP_MAX = 10_000
const WAIT_MS_MAX = 366 * 86_400_000

/** Makes the builders of one definition. They throw `invalidArgument`. */
export function flowBuilders(): FlowBuilders<never, never> {
  const counts = new Map<string, number>()
  const numbered = (kind: string): string => {
    const count = (counts.get(kind) ?? 0) + 1
    counts.set(kind, count)
    return `${kind}-${count}`
  }
  return {
    step: (name, options) => stepNode(name, options as unknown as AnyStepOptions, false),
    pivot: (name, options) => stepNode(name, options as unknown as AnyStepOptions, true),
    parallel: (...branches) => ({ kind: 'parallel', name: numbered('parallel'), branches }),
    choice: (branches, otherwise = []) => ({ kind: 'choice', name: numbered('choice'), branches, otherwise }),
    loop: ({ max, onMax = 'fail', ...rest }) => ({
      kind: 'loop',
      name: numbered('loop'),
      max: whole('the max of a loop', max, LOOP_MAX),
      onMax,
      ...rest,
    }),
    waitFor: (signal, { timeoutMs, onTimeout }) => ({
      kind: 'wait',
      name: numbered(`wait-${signal}`),
      signal,
      timeoutMs: whole(`the timeoutMs of waitFor(${JSON.stringify(signal)})`, timeoutMs, WAIT_MS_MAX),
      onTimeout: onTimeout ?? 'fail',
    }),
    delay: (delayMs) => ({
      kind: 'delay',
      name: numbered('delay'),
      delayMs: whole('a delay', delayMs, WAIT_MS_MAX),
    }),
    sub: (saga, { name = saga.source.name, input } = {}) => ({
      kind: 'sub',
      name: parseName('sub-saga', name),
      saga: saga.source,
      input,
    }),
    send: (name, { to, body, ...settings }) => ({
      kind: 'step',
      name: parseName('step', name),
      action: undefined,
      destination: to,
      isPivot: false,
      settings,
      input: body,
      inputSchema: undefined,
      result: undefined,
      attributes: undefined,
    }),
  }
}

type AnyStepOptions = StepBasics<never, unknown, unknown> & {
  readonly input?: Mapping<never, unknown> | undefined
}

function stepNode(name: string, options: AnyStepOptions, isPivot: boolean): StepNode<never> {
  const { action, input, result, attributes, ...settings } = options
  const type = typeof action === 'object' ? action.type : undefined
  if (result !== undefined) checkSchema(result, `the result of step ${JSON.stringify(name)}`)
  return {
    kind: 'step',
    name: parseName('step', name),
    action,
    destination: '',
    isPivot,
    settings,
    input,
    inputSchema: type?.input as StandardSchema | undefined,
    result: (result ?? type?.result) as StandardSchema | undefined,
    attributes,
  }
}

function whole(what: string, value: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= 1 && value <= max) return value
  throw new EscrowError('invalidArgument', `${what} is ${value}, allowed are whole numbers 1-${max}`)
}
