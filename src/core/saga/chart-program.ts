/** The program of any definition: turns of its chart, with its inputs, results and signals checked. */
import { EscrowError } from '../errors.ts'
import type { ChartTurn } from './chart-state.ts'
import { parseAttributes } from './chart-turn.ts'
import type { CurrentResults, FlowMachineContext } from './flow-view.ts'
import { checkJson } from './json.ts'
import { type Migrations, migratedState } from './migrate.ts'
import type {
  Json,
  MachineState,
  MigratedState,
  SagaAttributes,
  SagaEvent,
  SagaProgram,
  StepPolicy,
  StepResults,
  Turn,
} from './program.ts'
import { parseValue, type StandardSchema } from './schema.ts'
import type { Statechart } from './statechart.ts'

/** What a program is made of. */
export interface ChartProgramOptions {
  readonly name: string
  readonly version: number
  readonly hash: string
  readonly chart: Statechart
  readonly steps: ReadonlyMap<string, StepPolicy>
  readonly signals: ReadonlyMap<string, StandardSchema | undefined>
  readonly timeoutMs: number
  readonly input: StandardSchema | undefined
  readonly results: ReadonlyMap<string, StandardSchema>
  /** Undefined for a hand-written machine, which keeps results in its own context. */
  readonly flow: FlowFunctions | undefined
  /** Search attributes of an input. */
  readonly attributes: ((input: Json | undefined) => SagaAttributes) | undefined
  readonly migrations: Migrations
}

/** What a flow computes outside of its machine. */
export interface FlowFunctions {
  readonly current: CurrentResults
  readonly output: ((context: FlowMachineContext) => unknown) | undefined
  readonly attributes: ReadonlyMap<string, (context: FlowMachineContext) => SagaAttributes>
}

/** Drives one definition. */
export class ChartProgram implements SagaProgram {
  readonly name: string
  readonly version: number
  readonly hash: string
  readonly steps: ReadonlyMap<string, StepPolicy>
  readonly signals: ReadonlySet<string>
  readonly timeoutMs: number
  readonly migratesFrom: ReadonlySet<number>
  readonly #options: ChartProgramOptions

  constructor(options: ChartProgramOptions) {
    this.name = options.name
    this.version = options.version
    this.hash = options.hash
    this.steps = options.steps
    this.signals = new Set(options.signals.keys())
    this.timeoutMs = options.timeoutMs
    this.migratesFrom = new Set(Object.keys(options.migrations).map(Number))
    this.#options = options
  }

  parseInput(input: Json | undefined): Json | undefined {
    return parseValue(this.#options.input, input, `the input of saga ${JSON.stringify(this.name)}`)
  }

  parseResult(step: string, result: Json | undefined): Json | undefined {
    return parseValue(this.#options.results.get(step), result, `the result of step ${JSON.stringify(step)}`)
  }

  parseSignal(signal: string, payload: Json | undefined): Json | undefined {
    if (!this.signals.has(signal))
      throw new EscrowError(
        'unknownSignal',
        `saga ${JSON.stringify(this.name)} has no signal ${JSON.stringify(signal)}`,
      )
    return parseValue(
      this.#options.signals.get(signal),
      payload,
      `the payload of signal ${JSON.stringify(signal)}`,
    )
  }

  start(input: Json | undefined): Turn {
    const { chart, flow, attributes } = this.#options
    flow?.current.set(undefined)
    const turn = this.#finished(chart.start(input))
    return attributes === undefined ? turn : withAttributes(turn, attributes(input))
  }

  next(state: MachineState, event: SagaEvent, results: StepResults): Turn {
    const { chart, flow } = this.#options
    if (event.type === 'signal' && !this.signals.has(event.signal))
      throw new EscrowError(
        'unknownSignal',
        `saga ${JSON.stringify(this.name)} has no signal ${JSON.stringify(event.signal)}`,
      )
    if (flow === undefined) return this.#finished(chart.next(state, event))
    if (event.type !== 'stepDone') {
      flow.current.set(results)
      return this.#finished(chart.next(state, event))
    }
    const step = chart.invocations.get(event.invocation)?.step ?? event.invocation
    flow.current.set(results, step, event.result)
    const turn = this.#finished(chart.next(state, event))
    const attributes = flow.attributes.get(step)
    if (attributes === undefined) return turn
    return withAttributes(turn, attributes(chart.contextOf(turn.state) as FlowMachineContext))
  }

  restore(persisted: Json, input: Json | undefined): MachineState {
    return this.#options.chart.restore(persisted, input)
  }

  migrate(from: number, persisted: Json, input: Json | undefined): MigratedState {
    // Nothing is left of what the last turn of another saga was given.
    this.#options.flow?.current.set(undefined)
    return migratedState(this.#options, from, persisted, input)
  }

  #finished(turn: ChartTurn): ChartTurn {
    if (turn.status !== 'completed') return turn
    const { chart, flow } = this.#options
    const output =
      flow === undefined ? turn.output : flow.output?.(chart.contextOf(turn.state) as FlowMachineContext)
    if (output === undefined && turn.output === undefined) return turn
    return turn.with({ output: checkJson(output, `the output of saga ${JSON.stringify(this.name)}`) })
  }
}

function withAttributes(turn: ChartTurn, set: SagaAttributes): Turn {
  const attributes = parseAttributes(set)
  const tags = { ...turn.attributes?.tags, ...attributes.tags }
  return turn.with({
    attributes: {
      ...turn.attributes,
      ...attributes,
      ...(Object.keys(tags).length > 0 && { tags }),
    },
  })
}
