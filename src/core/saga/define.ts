/** Definitions of sagas: from a flow, or from a machine that was written by hand. */
import { EscrowError } from '../errors.ts'
import { parseName } from '../ids.ts'
import { callsOf, pathOf, statesOf } from './chart-graph.ts'
import { ChartProgram, type FlowFunctions } from './chart-program.ts'
import { checkGraph } from './checks.ts'
import { mermaidOf, xstateJsonOf } from './diagram.ts'
import { checkDurable } from './durable.ts'
import { type Flow, type FlowBuilders, type FlowSource, flowBuilders, type Mapping } from './flow.ts'
import { type CompiledFlow, compileFlow } from './flow-machine.ts'
import { CurrentResults, call, FLOW_CONTEXT, rootView } from './flow-view.ts'
import { hashSaga } from './hash.ts'
import type { Migrations } from './migrate.ts'
import { type AnyStepRef, type PlannedStep, type StepName, type StepSettings, stepPolicy } from './policy.ts'
import { refuseProblems, type SagaProblem } from './problems.ts'
import type { Json, SagaAttributes, SagaProgram, StepPolicy } from './program.ts'
import { checkSchema, type StandardSchema } from './schema.ts'
import { type AnyStateMachine, isMachine, Statechart } from './statechart.ts'

/** A saga that is defined: what a coordinator is given, and what a person looks at. */
export interface SagaDefinition<Input = never, Output = unknown> {
  readonly name: string
  readonly version: number
  /** A real xstate machine: visualise it, test its paths. Its steps run at their participants, never in it. */
  readonly machine: AnyStateMachine
  /** What drives it. */
  readonly program: SagaProgram
  /** A Mermaid `stateDiagram-v2`. */
  diagram(): string
  /** The machine as xstate's tools read it: JSON, functions by their names. */
  xstateJson(): Json
  /** Its machine as it is driven. */
  readonly chart: Statechart
  readonly migrations: Migrations
  /** What `sub` inlines; a hand-written machine has none. */
  readonly source: FlowSource | undefined
  /** The types alone; never there. */
  readonly types?: (input: Input) => Output
}

/** A definition that another flow may take in by `sub`. */
export interface FlowDefinition<Input, Output> extends SagaDefinition<Input, Output> {
  readonly source: FlowSource
}

/** A signal's name with the validator of its payload, or `undefined` for any. */
export type SignalSchemas = Readonly<Record<string, StandardSchema<unknown, unknown> | undefined>>

/** What `defineSaga` takes. */
export interface SagaOptions<Input, Output, Signals extends SignalSchemas> {
  /** 1-63 of a-z, 0-9 and '-'. */
  readonly name: string
  /** From 1. Sagas that run keep the version that they began with. */
  readonly version: number
  /** Any Standard Schema validator that answers at once. */
  readonly input?: StandardSchema<unknown, Input> | undefined
  readonly signals?: Signals | undefined
  /** From its start, wall clock, milliseconds, up to 366 days; then it is compensated. Default 0: none. */
  readonly timeoutMs?: number | undefined
  /** What a completed saga gives; default: nothing. */
  readonly output?: Mapping<Input, Output> | undefined
  /** Search attributes from the start. What the start itself gives goes before them, tag by tag. */
  readonly attributes?: ((input: Input) => SagaAttributes) | undefined
  /**
   * By the version that a saga runs so far: gives this version's state for that version's, when somebody migrates it.
   * Pure; what it throws refuses the migration, and changes nothing. See `migrateSaga`.
   */
  readonly migrations?: Migrations | undefined
  readonly flow: (builders: FlowBuilders<Input, Signals>) => Flow
}

/**
 * Defines a saga by its flow: one xstate machine, checked. Throws `invalidSaga` with the path and a remedy for each
 * problem, and `invalidArgument` or `tooLarge` for a field. Nothing runs, and nothing is registered yet.
 */
export function defineSaga<
  Input = Json | undefined,
  Output = undefined,
  Signals extends SignalSchemas = Record<never, never>,
>(options: SagaOptions<Input, Output, Signals>): FlowDefinition<Input, Output> {
  const { name, flow, output, attributes } = options
  const common = parseCommon(options)
  const current = new CurrentResults()
  const built = flow(flowBuilders() as unknown as FlowBuilders<Input, Signals>)
  const compiled: CompiledFlow = compileFlow(name, built, common.signals, current)
  const view = rootView(current)
  const functions: FlowFunctions = {
    current,
    output: output && ((context) => call(output as Mapping<never, unknown>, view.context(context))),
    attributes: compiled.attributes,
  }
  const source: FlowSource = {
    name,
    version: common.version,
    input: common.input,
    signals: compiled.signals,
    output: output as Mapping<never, unknown> | undefined,
    ofItsOwn: [
      ...(common.timeoutMs > 0 ? ['timeoutMs'] : []),
      ...(attributes === undefined ? [] : ['attributes']),
    ],
    flow: built,
  }
  const definition = define<Input, Output>({
    ...common,
    ...compiled,
    ofInput: attributes as Defined['ofInput'],
    flow: functions,
    migrations: options.migrations,
    source,
  })
  return { ...definition, source }
}

/** Defines a saga by a flow alone, whose functions see the input as it came: what a routing slip is compiled to. */
export function defineFlow(
  name: string,
  version: number,
  flow: Flow,
): FlowDefinition<Json | undefined, undefined> {
  return defineSaga({ name, version, flow: () => flow })
}

/** A step of a hand-written machine: how the actor source of its name is called. */
export interface MachineStep extends StepSettings {
  readonly action: AnyStepRef | StepName
  readonly pivot?: true | undefined
  readonly result?: StandardSchema<unknown, unknown> | undefined
}

/** What `definitionOf` takes beside the machine. */
export interface MachineOptions<Input> {
  readonly name: string
  readonly version: number
  readonly input?: StandardSchema<unknown, Input> | undefined
  /** Validators of signals. Every event that the machine takes by name is a signal; `event.payload` is what it carries. */
  readonly signals?: SignalSchemas | undefined
  readonly timeoutMs?: number | undefined
  readonly attributes?: ((input: Input) => SagaAttributes) | undefined
  readonly migrations?: Migrations | undefined
  /** By the actor source that invokes name. */
  readonly steps: Readonly<Record<string, MachineStep>>
}

/**
 * Defines a saga by a machine of `setup(…).createMachine(…)` whose invokes name steps. A state's `meta` may say of the
 * one step that it invokes: `compensation`, `pivot`, `irreversible`, `readOnly`; a parallel state whose regions wait for
 * each other says `ordered: true`. A state with the tag `failed` ends the flow as failed, as does a step's failure that
 * nothing handles. The action
 * `{ type: 'setAttributes', params }` sets search attributes. Throws as `defineSaga` does.
 */
export function definitionOf<Input = Json | undefined>(
  machine: AnyStateMachine,
  options: MachineOptions<Input>,
): SagaDefinition<Input, Json | undefined> {
  if (!isMachine(machine)) throw new EscrowError('invalidArgument', 'this is no machine of xstate 5')
  const common = parseCommon(options)
  const problems: SagaProblem[] = []
  const steps = plannedSteps(machine, options.steps, problems)
  for (const event of signalsOf(machine)) if (!common.signals.has(event)) common.signals.set(event, undefined)
  const schemas = Object.entries(options.steps).flatMap(([step, { result, action }]) => {
    const schema = result ?? (typeof action === 'object' ? action.type?.result : undefined)
    return schema === undefined ? [] : [[step, schema as StandardSchema] as const]
  })
  return define({
    ...common,
    machine,
    steps,
    results: new Map(schemas),
    problems,
    ofInput: options.attributes as Defined['ofInput'],
    flow: undefined,
    migrations: options.migrations,
    source: undefined,
  })
}

interface Common {
  readonly name: string
  readonly version: number
  readonly timeoutMs: number
  readonly input: StandardSchema | undefined
  readonly signals: Map<string, StandardSchema | undefined>
}

const TIMEOUT_MS_MAX = 366 * 86_400_000
const VERSION_MAX = 1_000_000
const SIGNALS_MAX = 100

function parseCommon(
  options: Pick<MachineOptions<never>, 'name' | 'version' | 'timeoutMs' | 'signals'> & { input?: unknown },
): Common {
  const { version, timeoutMs = 0 } = options
  const name = parseName('saga', options.name)
  const field = (what: string, value: number, min: number, max: number): void => {
    if (Number.isSafeInteger(value) && value >= min && value <= max) return
    throw new EscrowError(
      'invalidArgument',
      `saga ${JSON.stringify(name)}: ${what} is ${value}, allowed are whole numbers ${min}-${max}`,
    )
  }
  field('version', version, 1, VERSION_MAX)
  field('timeoutMs', timeoutMs, 0, TIMEOUT_MS_MAX)
  if (options.input !== undefined) checkSchema(options.input, `the input of saga ${JSON.stringify(name)}`)
  const signals = new Map<string, StandardSchema | undefined>()
  for (const [signal, schema] of Object.entries(options.signals ?? {})) {
    parseSignalName(signal)
    if (schema !== undefined) checkSchema(schema, `the payload of signal ${JSON.stringify(signal)}`)
    signals.set(signal, schema as StandardSchema | undefined)
  }
  field('the count of signals', signals.size, 0, SIGNALS_MAX)
  return { name, version, timeoutMs, input: options.input as StandardSchema | undefined, signals }
}

function checkMigrations(name: string, version: number, migrations: Migrations): void {
  for (const [from, migration] of Object.entries(migrations)) {
    const isVersion = /^[1-9]\d{0,6}$/.test(from) && Number(from) <= VERSION_MAX && Number(from) !== version
    if (isVersion && typeof migration === 'function') continue
    throw new EscrowError(
      'invalidArgument',
      `saga ${JSON.stringify(name)}: migrations[${JSON.stringify(from)}] is not a function by another version, 1-${VERSION_MAX}`,
    )
  }
}

function parseSignalName(signal: string): void {
  if (/^[\w-][\w.-]{0,99}$/.test(signal) && !/^(xstate|escrow)\./.test(signal)) return
  throw new EscrowError(
    'invalidArgument',
    `signal ${JSON.stringify(signal.slice(0, 120))} is no name of 1-100 letters, digits, '_', '-' and '.' that doesn't begin with "xstate." or "escrow."`,
  )
}

/** The events that a machine takes from outside. */
function signalsOf(machine: AnyStateMachine): ReadonlySet<string> {
  const events = statesOf(machine.root).flatMap((node) => [
    ...(node.transitions as ReadonlyMap<string, unknown>).keys(),
  ])
  const signals = events.filter((event) => !event.startsWith('xstate.') && !event.includes('*'))
  for (const signal of signals) parseSignalName(signal)
  return new Set(signals)
}

const META = ['compensation', 'pivot', 'irreversible', 'readOnly'] as const

/** The steps of a hand-written machine: what `steps` says, and what the `meta` of the states says that invoke them. */
function plannedSteps(
  machine: AnyStateMachine,
  given: Readonly<Record<string, MachineStep>>,
  problems: SagaProblem[],
): ReadonlyMap<string, PlannedStep> {
  const merged = new Map(Object.entries(given))
  const calls = callsOf(machine)
  for (const { node, step } of calls) {
    const meta = (node.meta ?? {}) as Record<string, unknown>
    const said = META.filter((key) => meta[key] !== undefined)
    if (said.length === 0) continue
    if (calls.filter((other) => other.node === node).length > 1)
      problems.push({
        check: 'ambiguousMeta',
        path: pathOf(node),
        message: `its meta (${said.join(', ')}) may mean each of its invokes`,
        remedy: 'say it in `steps`, or leave one invoke in a state',
      })
    const before = merged.get(step)
    if (before !== undefined)
      merged.set(step, { ...before, ...Object.fromEntries(said.map((key) => [key, meta[key]])) })
  }
  return new Map(
    [...merged].map(([step, { action, pivot, result: _, ...settings }]) => [
      step,
      { settings, action, destination: '', isPivot: pivot === true },
    ]),
  )
}

interface Defined extends Omit<Common, 'signals'> {
  readonly signals: ReadonlyMap<string, StandardSchema | undefined>
  readonly machine: AnyStateMachine
  readonly steps: ReadonlyMap<string, PlannedStep>
  readonly results: ReadonlyMap<string, StandardSchema>
  readonly problems: readonly SagaProblem[]
  /** Search attributes of an input. */
  readonly ofInput: ((input: Json | undefined) => SagaAttributes) | undefined
  readonly flow: FlowFunctions | undefined
  readonly migrations: Migrations | undefined
  readonly source: FlowSource | undefined
}

/** Checks and completes a definition, however it was written. */
function define<Input, Output>(defined: Defined): SagaDefinition<Input, Output> {
  const { name, version, machine, steps: planned, timeoutMs, flow, source } = defined
  // What isn't durable is told first: the graph of such a machine says little.
  refuseProblems(name, [...defined.problems, ...checkDurable(machine, new Set(planned.keys()))])
  const { classes, problems } = checkGraph({ machine, steps: planned, timeoutMs })
  refuseProblems(name, problems)
  const steps = new Map<string, StepPolicy>()
  for (const [step, plan] of planned)
    steps.set(step, stepPolicy(step, plan, classes.get(step) ?? 'irreversible'))
  const hash = hashSaga({ name, version, machine, steps, signals: defined.signals.keys(), timeoutMs })
  const chart = new Statechart(machine, flow === undefined ? {} : { keeping: FLOW_CONTEXT, isCompiled: true })
  const migrations = defined.migrations ?? {}
  checkMigrations(name, version, migrations)
  const program = new ChartProgram({
    ...defined,
    attributes: defined.ofInput,
    migrations,
    steps,
    hash,
    chart,
  })
  return {
    name,
    version,
    machine,
    program,
    source,
    diagram: () => mermaidOf(machine, steps),
    xstateJson: () => xstateJsonOf(machine),
    chart,
    migrations,
  }
}
