/**
 * Rewrites the configuration of a definition's machine into the one that is driven: each invoke becomes an entry and an
 * exit action, each parallel state names its entries. State ids stay the same.
 */
import { ENTER_PARALLEL, type Invocation, LEAVE_PARALLEL, START_STEP, STOP_STEP } from './chart-turn.ts'

/** A node of xstate's own configuration, as far as it is rewritten. */
export interface NodeConfig {
  readonly id?: string
  readonly type?: string
  readonly initial?: unknown
  readonly states?: Readonly<Record<string, NodeConfig>>
  readonly invoke?: OneOrMany<InvokeConfig>
  readonly on?: Readonly<Record<string, unknown>>
  readonly entry?: OneOrMany<unknown>
  readonly exit?: OneOrMany<unknown>
  readonly meta?: unknown
  readonly [key: string]: unknown
}

/** One invoke of xstate's configuration. */
export interface InvokeConfig {
  readonly id?: string
  readonly src: unknown
  readonly input?: unknown
  readonly onDone?: unknown
  readonly onError?: unknown
}

type OneOrMany<Each> = Each | readonly Each[] | undefined

const toArray = <Each>(value: OneOrMany<Each>): readonly Each[] => {
  if (value === undefined) return []
  return Array.isArray(value) ? value : [value as Each]
}

/** The id of an invoke: its own, else the path of its state, which no reordering of states changes. */
export function invocationId(
  path: readonly string[],
  invoke: InvokeConfig,
  index: number,
  machine: string,
): string {
  if (invoke.id !== undefined) return invoke.id
  const state = path.length === 0 ? machine : path.join('.')
  return index === 0 ? state : `${state}#${index + 1}`
}

/** The invokes of one state, as its configuration has them. */
export const invokesOf = (config: unknown): readonly InvokeConfig[] => toArray((config as NodeConfig).invoke)

/** Whether the regions of a parallel state depend on each other, so that they unwind as one. */
export const isOrdered = (config: unknown): boolean =>
  ((config as NodeConfig).meta as { ordered?: unknown } | undefined)?.ordered === true

/** One pass over a configuration; `node` gives it rewritten, and the invokes collect. */
export class Rewriting {
  readonly invocations = new Map<string, Invocation>()
  readonly #machine: string

  constructor(machine: string) {
    this.#machine = machine
  }

  node(config: NodeConfig, path: readonly string[], around: Invocation['around']): NodeConfig {
    const invokes = toArray(config.invoke).map((invoke, index) =>
      this.#invocation(invoke, index, path, around),
    )
    const parallel =
      config.type === 'parallel' && !isOrdered(config) ? path.join('.') || this.#machine : undefined
    const entering = parallel === undefined ? [] : [{ type: ENTER_PARALLEL, params: parallel }]
    const leaving = parallel === undefined ? [] : [{ type: LEAVE_PARALLEL, params: parallel }]
    const starting = invokes.map((invocation) => ({ type: START_STEP, params: invocation }))
    const stopping = invokes.map(({ id }) => ({ type: STOP_STEP, params: id }))
    const { invoke, states, ...rest } = config
    return {
      ...rest,
      entry: [...entering, ...toArray(config.entry), ...starting],
      exit: [...toArray(config.exit), ...stopping, ...leaving],
      on: { ...config.on, ...outcomes(toArray(invoke), invokes) },
      ...(states !== undefined && { states: this.#states(states, path, around, parallel) }),
    }
  }

  #states(
    states: Readonly<Record<string, NodeConfig>>,
    path: readonly string[],
    around: Invocation['around'],
    parallel: string | undefined,
  ): Record<string, NodeConfig> {
    const rewritten = Object.entries(states).map(([key, state]) => {
      const inside = parallel === undefined ? around : [...around, { parallel, region: key }]
      return [key, this.node(state, [...path, key], inside)] as const
    })
    return Object.fromEntries(rewritten)
  }

  #invocation(
    invoke: InvokeConfig,
    index: number,
    path: readonly string[],
    around: Invocation['around'],
  ): Invocation {
    const id = invocationId(path, invoke, index, this.#machine)
    const at = path.join('.')
    const invocation = { id, step: String(invoke.src), path: at, around, input: invoke.input }
    this.invocations.set(id, invocation)
    return invocation
  }
}

/** The transitions of invokes, as transitions on the events that they would send. */
function outcomes(configs: readonly InvokeConfig[], invokes: readonly Invocation[]): Record<string, unknown> {
  const on: Record<string, unknown> = {}
  for (const [index, { onDone, onError }] of configs.entries()) {
    const { id } = invokes[index] as Invocation
    if (onDone !== undefined) on[`xstate.done.actor.${id}`] = onDone
    if (onError !== undefined) on[`xstate.error.actor.${id}`] = onError
  }
  return on
}
