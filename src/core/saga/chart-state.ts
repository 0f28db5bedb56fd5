/** A machine between two turns: live in memory, and as a row keeps it, without children and without what others keep. */
import type { Activity } from './chart-turn.ts'
import type { Json, MachineState, Turn } from './program.ts'

/** What is used of xstate's snapshots. */
export interface Snapshot {
  readonly status: 'active' | 'done' | 'error' | 'stopped'
  readonly value: Json
  readonly context: unknown
  readonly output: unknown
  readonly error: unknown
  readonly tags: ReadonlySet<string>
  readonly historyValue: Readonly<Record<string, readonly { readonly id: string }[]>>
  readonly children: Readonly<Record<string, unknown>>
  readonly _nodes: readonly ChartNode[]
}

/** A snapshot without what differs from saga to saga. */
export type Standing = Omit<Snapshot, 'context'>

/** What is used of xstate's state nodes. */
export interface ChartNode {
  readonly id: string
  readonly path: readonly string[]
  readonly tags: readonly string[]
  readonly exit: readonly { readonly type: string; readonly params?: unknown; readonly sendId?: unknown }[]
  readonly transitions: ReadonlyMap<string, readonly { guard?: unknown }[]>
  readonly states: Readonly<Record<string, ChartNode>>
}

/** How the context of a machine is kept, where not all of it is. */
export interface ContextKeeping {
  /** What of it a row keeps; undefined: nothing. */
  keep(context: unknown): Json | undefined
  revive(kept: Json | undefined, input: Json | undefined): unknown
  /** What of it is the saga's own input; undefined where that isn't known. */
  inputIn(context: unknown): Json | undefined
}

/** Keeps all of it. */
export const KEEP_ALL: ContextKeeping = {
  keep: (context) => (context === undefined ? undefined : (context as Json)),
  revive: (kept) => kept ?? {},
  inputIn: () => undefined,
}

/**
 * Where a machine stands, its context left aside: the states that are active, history, what is spent or armed. A turn that
 * asks no guard and changes no context depends on nothing else, so it is remembered here.
 */
export class Configuration {
  readonly activity: Activity
  /** Of the first state that came here; its context is left out. */
  readonly #snapshot: Snapshot
  #text: string | undefined

  constructor(snapshot: Snapshot, activity: Activity) {
    this.#snapshot = { ...snapshot, context: undefined }
    this.activity = activity
  }

  get snapshot(): Standing {
    return this.#snapshot
  }

  snapshotWith(context: unknown): Snapshot {
    return { ...this.#snapshot, context }
  }

  /** Everything that a row keeps but the context, as JSON text: the same for the same configuration. */
  get text(): string {
    this.#text ??= JSON.stringify(this.kept())
    return this.#text
  }

  kept(): Omit<Persisted, 'context'> {
    const { value, historyValue } = this.#snapshot
    const { spent, raised, entries, parallels } = this.activity
    const history = Object.entries(historyValue).map(
      ([id, nodes]) => [id, nodes.map((node) => node.id)] as const,
    )
    return {
      value,
      ...(history.length > 0 && { history: Object.fromEntries(history) }),
      ...(spent.size > 0 && { spent: [...spent] }),
      ...(raised.size > 0 && { raised: Object.fromEntries(raised) }),
      ...(entries > 0 && { entries }),
      ...(parallels.size > 0 && { parallels: Object.fromEntries(parallels) }),
    }
  }
}

/** A machine between two turns. */
export class ChartState implements MachineState {
  readonly configuration: Configuration
  readonly context: unknown
  readonly #keeping: ContextKeeping

  constructor(configuration: Configuration, context: unknown, keeping: ContextKeeping) {
    this.configuration = configuration
    this.context = context
    this.#keeping = keeping
  }

  get snapshot(): Snapshot {
    return this.configuration.snapshotWith(this.context)
  }

  get text(): string {
    const { text } = this.configuration
    const kept = this.#keeping.keep(this.context)
    return kept === undefined ? text : `${text.slice(0, -1)},"context":${JSON.stringify(kept)}}`
  }

  /** Whether a state waits for this signal. */
  takes(signal: string): boolean {
    return this.configuration.snapshot._nodes.some((node) => node.transitions.has(signal))
  }

  persist(): Json {
    const kept = this.#keeping.keep(this.context)
    return { ...(this.configuration.kept() as object), ...(kept !== undefined && { context: kept }) }
  }
}

/** What came of a turn, with what is only asked of few turns. */
export class ChartTurn implements Turn {
  readonly state: ChartState
  readonly status: Turn['status']
  readonly output: Turn['output']
  readonly error: string
  readonly effects: Turn['effects']
  readonly attributes: Turn['attributes']

  constructor(
    state: ChartState,
    status: Turn['status'],
    effects: Turn['effects'],
    told: Partial<Pick<Turn, 'output' | 'error' | 'attributes'>>,
  ) {
    this.state = state
    this.status = status
    this.output = told.output
    this.error = told.error ?? ''
    this.effects = effects
    this.attributes = told.attributes
  }

  /** The same turn, with what its definition computes outside of its machine. */
  with(changes: Partial<Pick<Turn, 'output' | 'attributes'>>): ChartTurn {
    return new ChartTurn(this.state, this.status, this.effects, { ...this, ...changes })
  }

  takes(signal: string): boolean {
    return this.state.takes(signal)
  }
}

/** What `ChartState.persist` gives. */
export interface Persisted {
  readonly value: Json
  readonly context?: Json
  readonly history?: Readonly<Record<string, readonly string[]>>
  readonly spent?: readonly string[]
  readonly raised?: Readonly<Record<string, Json>>
  readonly entries?: number
  readonly parallels?: Readonly<Record<string, number>>
}
