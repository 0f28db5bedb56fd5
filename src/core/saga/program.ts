/** What a definition is to those who drive it: policies for each step, and turns of its machine. */
import type { Backoff } from '../backoff.ts'

/** A value that JSON can carry. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }

/** When a step is tried again. Pauses are log time. */
export interface StepRetry extends Backoff {
  /** How often it is tried in all; 0: without end. */
  readonly attemptsMax: number
}

/**
 * What a step means for the way back.
 * - `compensatable`: has a compensation.
 * - `pivot`: from its first dispatch on there is no way back until it is refused.
 * - `retriable`: after the pivot, tried until it is done; a message that is sent is one.
 * - `irreversible`: has no compensation, and is marked so: it can't be undone, or there is nothing to undo.
 */
export type StepClass = 'compensatable' | 'pivot' | 'retriable' | 'irreversible'

/** How one step is called. Times are milliseconds, counted in log time. */
export interface StepPolicy {
  /** Unique in its definition: the name given to `step(…)`, or a hand-written machine's actor source. */
  readonly step: string
  /** Whom the action is called at; empty for a message. */
  readonly service: string
  /** The participant's step name; empty for a message. */
  readonly action: string
  /** The participant's step whose compensation undoes it; undefined: none. */
  readonly compensation: { readonly service: string; readonly step: string } | undefined
  readonly class: StepClass
  /** Where a message is published; empty unless the step sends one. Its input is then the body, as JSON. */
  readonly destination: string
  readonly retry: StepRetry
  readonly attemptTimeoutMs: number
  /** From its entry to its outcome, all attempts told; 0: none. */
  readonly stepTimeoutMs: number
  /** Error codes that end the step as failed at once. */
  readonly nonRetryable: readonly string[]
  /** In flight for each log of the coordinator; 0: no limit. */
  readonly concurrencyMax: number
  /** 0: no limit. */
  readonly ratePerSecond: number
}

/** What a machine is after a turn. Live in memory; `persist` gives what a row keeps, `SagaProgram.restore` takes it back. */
export interface MachineState {
  persist(): Json
  /** JSON text of the same. */
  readonly text: string
}

/** What makes a machine take a turn. */
export type SagaEvent =
  | { readonly type: 'stepDone'; readonly invocation: string; readonly result: Json | undefined }
  | {
      readonly type: 'stepFailed'
      readonly invocation: string
      readonly error: { readonly code: string; readonly message: string }
    }
  | { readonly type: 'timer'; readonly timer: string }
  | { readonly type: 'signal'; readonly signal: string; readonly payload: Json | undefined }

/** The parallel states around a step, outermost first: which one, which entry into it, which of its regions. */
export type Branch = readonly {
  readonly parallel: string
  readonly entry: number
  readonly region: string
}[]

/** What is to be done after a turn, in order. */
export type TurnEffect =
  | {
      readonly type: 'startStep'
      readonly invocation: string
      readonly step: string
      readonly input: Json | undefined
      /** It is what the saga itself was started with, whose text is known and was found good. */
      readonly isSagaInput: boolean
      readonly branch: Branch
    }
  /** Its state was left while it ran. */
  | { readonly type: 'stopStep'; readonly invocation: string }
  | { readonly type: 'startTimer'; readonly timer: string; readonly delayMs: number }
  | { readonly type: 'stopTimer'; readonly timer: string }

/** Search attributes of a saga. */
export interface SagaAttributes {
  readonly businessKey?: string
  readonly tags?: Readonly<Record<string, string>>
}

/** What came of a turn. */
export interface Turn {
  readonly state: MachineState
  /** 'failed': the flow gave up, what is done is to be compensated. */
  readonly status: 'active' | 'completed' | 'failed'
  readonly output: Json | undefined
  /** Why it failed; empty otherwise. */
  readonly error: string
  /** When a turn ends the flow, everything that still runs or is armed is stopped here. */
  readonly effects: readonly TurnEffect[]
  /** Search attributes that this turn set; undefined: none. */
  readonly attributes: SagaAttributes | undefined
  /** Whether a kept (early) signal of this name would be taken now: a state waits for it. Guards aren't asked. */
  takes(signal: string): boolean
}

/** Results of steps that are done, by step: the latest one. They are kept with the executions, never in the machine's own context. */
export interface StepResults {
  get(step: string): Json | undefined
}

/** What of a machine runs, by name. */
export interface RunningParts {
  readonly invocations: readonly string[]
  readonly timers: readonly string[]
}

/** The state of a saga that ran under another version. */
export interface MigratedState {
  readonly state: MachineState
  readonly running: RunningParts
  /** Whether a state waits for this signal, as `Turn.takes`. */
  takes(signal: string): boolean
}

/** A definition of a saga as those see it who drive it. */
export interface SagaProgram {
  readonly name: string
  readonly version: number
  /** Of the serialisable structure and the policies, hex. */
  readonly hash: string
  readonly steps: ReadonlyMap<string, StepPolicy>
  readonly signals: ReadonlySet<string>
  /** Absolute, from the start, wall clock, milliseconds; 0: none. */
  readonly timeoutMs: number
  /**
   * Checks an input against the schema; returns it as the schema has it. Throws `invalidArgument`. Synchronous: an
   * asynchronous validator is refused at definition.
   */
  parseInput(input: Json | undefined): Json | undefined
  /** Checks a step's result the same way; throws `invalidArgument`. */
  parseResult(step: string, result: Json | undefined): Json | undefined
  /** Throws `unknownSignal` and `invalidArgument`. */
  parseSignal(signal: string, payload: Json | undefined): Json | undefined
  /**
   * The first turn. Throws what the user's guard or mapping throws (which parks that saga), `invalidArgument` where a
   * value isn't JSON, and `tooLarge` where a bound is passed. Pure: no clock, no randomness.
   */
  start(input: Json | undefined): Turn
  /** The next turn, from a state of an active one. Throws as `start` does. */
  next(state: MachineState, event: SagaEvent, results: StepResults): Turn
  /** Takes back what `persist` gave; `input` is what `start` was given, which no state repeats. Throws `invalidArgument`. */
  restore(persisted: Json, input: Json | undefined): MachineState
  /** The versions whose running sagas it can take over. */
  readonly migratesFrom: ReadonlySet<number>
  /** Takes over what `persist` gave in one of `migratesFrom`. Throws what the user's function throws, and `migrationFailed`. */
  migrate(from: number, persisted: Json, input: Json | undefined): MigratedState
}
