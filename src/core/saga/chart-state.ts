/** A machine between two turns: live in memory, and as a row keeps it, without children and without what others keep. */
import type { Activity } from './chart-turn.ts'
import type { Json, MachineState } from './program.ts'

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
}

/** Keeps all of it. */
export const KEEP_ALL: ContextKeeping = {
  keep: (context) => (context === undefined ? undefined : (context as Json)),
  revive: (kept) => kept ?? {},
}

/** A machine between two turns. */
export class ChartState implements MachineState {
  readonly snapshot: Snapshot
  readonly activity: Activity
  readonly #keeping: ContextKeeping

  constructor(snapshot: Snapshot, activity: Activity, keeping: ContextKeeping) {
    this.snapshot = snapshot
    this.activity = activity
    this.#keeping = keeping
  }

  persist(): Json {
    const { value, context, historyValue } = this.snapshot
    const { spent, raised, entries, parallels } = this.activity
    const kept = this.#keeping.keep(context)
    const history = Object.entries(historyValue).map(
      ([id, nodes]) => [id, nodes.map((node) => node.id)] as const,
    )
    return {
      value,
      ...(kept !== undefined && { context: kept }),
      ...(history.length > 0 && { history: Object.fromEntries(history) }),
      ...(spent.size > 0 && { spent: [...spent] }),
      ...(raised.size > 0 && { raised: Object.fromEntries(raised) }),
      ...(entries > 0 && { entries }),
      ...(parallels.size > 0 && { parallels: Object.fromEntries(parallels) }),
    }
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
