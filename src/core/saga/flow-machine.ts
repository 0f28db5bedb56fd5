/**
 * Compiles a flow to the configuration of one xstate machine. A sequence lies flat in its region, so that the machine of
 * a long saga is no deeper than that of a short one:
 *
 * | part     | its state                                                                      |
 * |----------|--------------------------------------------------------------------------------|
 * | step     | invokes the step of its name, goes on when it is done                           |
 * | parallel | a parallel state with a region for each branch, which ends in `done`            |
 * | choice   | `always`, one guarded transition for each branch                                |
 * | loop     | `always`: into the body, whose last state leads back here, or on                |
 * | wait     | on the signal, or `after` its deadline                                          |
 * | delay    | `after`                                                                         |
 * | sub      | none: its parts stand here, with its name and a slash before theirs             |
 *
 * The whole ends in `completed`; a step that fails leads to `failed`, from everywhere.
 */
import { EscrowError, unreachable } from '../errors.ts'
import type {
  ChoiceNode,
  DoneContext,
  Flow,
  FlowNode,
  LoopNode,
  Mapping,
  ParallelNode,
  StepNode,
  WaitNode,
} from './flow.ts'
import { call, type FlowMachineContext, rootView, subView, type View } from './flow-view.ts'
import type { PlannedStep } from './policy.ts'
import type { SagaProblem } from './problems.ts'
import type { Json, SagaAttributes, StepResults } from './program.ts'
import { parseValue, type StandardSchema } from './schema.ts'
import { type AnyStateMachine, compileMachine, FAILED, inStates, stepLogic } from './statechart.ts'

/** A flow as a machine, and what of it is no part of the machine. */
export interface CompiledFlow {
  readonly machine: AnyStateMachine
  readonly steps: ReadonlyMap<string, PlannedStep>
  readonly results: ReadonlyMap<string, StandardSchema>
  readonly signals: ReadonlyMap<string, StandardSchema | undefined>
  /** What steps set when they are done. */
  readonly attributes: ReadonlyMap<string, (context: FlowMachineContext) => SagaAttributes>
  readonly problems: readonly SagaProblem[]
}

/** Parts of one flow, sub-sagas inlined. */
export const FLOW_PARTS_MAX = 5_000

interface Part {
  readonly node: Exclude<FlowNode, { readonly kind: 'sub' }>
  readonly name: string
  readonly view: View
}

/** States of one region, and the state in which it ends. */
interface Region {
  readonly states: Record<string, object>
  readonly end: string
}

/** Compiles a flow. Throws `invalidArgument` and `tooLarge` for what is no flow; other problems are collected. */
export function compileFlow(
  name: string,
  flow: Flow,
  signals: ReadonlyMap<string, StandardSchema | undefined>,
  results: StepResults,
): CompiledFlow {
  return new FlowCompiler(name, new Map(signals), results).compile(flow)
}

class FlowCompiler {
  readonly #name: string
  readonly #signals: Map<string, StandardSchema | undefined>
  readonly #results: StepResults
  readonly #steps = new Map<string, PlannedStep>()
  readonly #schemas = new Map<string, StandardSchema>()
  readonly #attributes = new Map<string, (context: FlowMachineContext) => SagaAttributes>()
  readonly #guards: Record<string, (given: { context: FlowMachineContext }) => boolean> = {}
  readonly #actions: Record<string, (context: FlowMachineContext, event: never) => object> = {}
  readonly #names = new Set(['completed', 'failed', 'done', 'waiting'])
  readonly #problems: SagaProblem[] = []

  constructor(name: string, signals: Map<string, StandardSchema | undefined>, results: StepResults) {
    this.#name = name
    this.#signals = signals
    this.#results = results
  }

  compile(flow: Flow): CompiledFlow {
    const parts = this.#parts(flow, rootView(this.#results))
    const states: Record<string, object> = {}
    const initial = this.#sequence(parts, 'completed', { states, end: 'completed' })
    const config = {
      id: this.#name,
      context: ({ input }: { input: Json | undefined }) => ({ input }),
      initial,
      states: { ...states, completed: { type: 'final' }, failed: { type: 'final', tags: [FAILED] } },
      on: { 'xstate.error.actor.*': { target: '.failed' } },
    }
    const actors = Object.fromEntries([...this.#steps.keys()].map((step) => [step, stepLogic()]))
    return {
      machine: compileMachine(config, { guards: this.#guards, actions: this.#actions, actors }),
      steps: this.#steps,
      results: this.#schemas,
      signals: this.#signals,
      attributes: this.#attributes,
      problems: this.#problems,
    }
  }

  /** A flow as the parts of one sequence. */
  #parts(flow: Flow, view: View): readonly Part[] {
    if (Array.isArray(flow)) return (flow as readonly Flow[]).flatMap((each) => this.#parts(each, view))
    const node = flow as FlowNode | undefined
    if (typeof node?.kind !== 'string')
      throw new EscrowError(
        'invalidArgument',
        `saga ${JSON.stringify(this.#name)}: the flow holds ${String(node)}, no part of a flow`,
      )
    if (node.kind === 'sub') {
      this.#claim(view.prefix + node.name)
      for (const option of node.saga.ofItsOwn)
        this.#problems.push(subProblem(view.prefix + node.name, option))
      for (const [signal, schema] of node.saga.signals) this.#addSignal(signal, schema)
      return this.#parts(node.saga.flow, subView(view, node, this.#results))
    }
    const name = view.prefix + node.name
    this.#claim(name)
    return [{ node, name, view }]
  }

  #claim(name: string): void {
    if (this.#names.has(name))
      this.#problems.push({
        check: 'reservedName',
        path: name,
        message:
          'this name is taken: by another part of the flow, or by what the machine itself uses (completed, failed, done, waiting)',
        remedy: 'name it otherwise; a sub-saga that stands twice in a flow needs a `name`',
      })
    this.#names.add(name)
    if (this.#names.size > FLOW_PARTS_MAX)
      throw new EscrowError('tooLarge', `a flow has at most ${FLOW_PARTS_MAX} parts (FLOW_PARTS_MAX)`)
  }

  #addSignal(signal: string, schema: StandardSchema | undefined): void {
    if (this.#signals.has(signal) && this.#signals.get(signal) !== schema)
      throw new EscrowError(
        'invalidArgument',
        `saga ${JSON.stringify(this.#name)}: a sub-saga has another schema for signal ${JSON.stringify(signal)}`,
      )
    this.#signals.set(signal, schema)
  }

  /** Adds the states of a sequence that leads to `next`; gives the name of the first. */
  #sequence(parts: readonly Part[], next: string, region: Region): string {
    for (const [index, part] of parts.entries()) {
      // The key is claimed first: states stand in the order of the flow, a branch behind its choice.
      region.states[part.name] = {}
      region.states[part.name] = this.#state(part, parts[index + 1]?.name ?? next, region)
    }
    return parts[0]?.name ?? next
  }

  #state(part: Part, next: string, region: Region): object {
    const { node } = part
    switch (node.kind) {
      case 'step':
        return this.#step(node, part, next)
      case 'parallel':
        return this.#parallel(node, part, next)
      case 'choice':
        return this.#choice(node, part, next, region)
      case 'loop':
        return this.#loop(node, part, next, region)
      case 'wait':
        return this.#wait(node, part, next, region)
      case 'delay':
        return { after: { [node.delayMs]: next } }
      default:
        return unreachable(node)
    }
  }

  #step(node: StepNode, { name, view }: Part, next: string): object {
    const { settings, action, destination, isPivot, input, inputSchema, result, attributes } = node
    this.#steps.set(name, { settings, action, destination, isPivot })
    if (result !== undefined) this.#schemas.set(name, result)
    if (attributes !== undefined)
      this.#attributes.set(name, (context) => {
        const seen = view.context(context)
        return attributes({ ...seen, result: seen.results.maybe(node) } as DoneContext<never, never>)
      })
    const mapped = ({ context }: { context: FlowMachineContext }): unknown => {
      const given = input === undefined ? view.input(context) : call(input, view.context(context))
      return inputSchema === undefined
        ? given
        : parseValue(inputSchema, given, `the input of step ${JSON.stringify(name)}`)
    }
    return { invoke: { src: name, id: name, input: mapped, onDone: next } }
  }

  #parallel(node: ParallelNode, { name, view }: Part, next: string): object {
    const states: Record<string, object> = {}
    const { waits } = node
    for (const branch of node.branches) {
      const parts = this.#parts(branch, view)
      const [first] = parts
      if (first === undefined) continue
      const region: Region = { states: {}, end: 'done' }
      const initial = this.#sequence(parts, 'done', region)
      const before = waits?.get(first.name)
      const waiting = before === undefined ? {} : { waiting: this.#waiting(name, before, initial) }
      states[first.name] = {
        initial: before === undefined ? initial : 'waiting',
        states: { ...waiting, ...region.states, done: { type: 'final' } },
      }
    }
    if (Object.keys(states).length === 0) return { always: next }
    // Regions that wait for each other unwind as one, in reverse order of completion.
    return {
      type: 'parallel',
      states,
      onDone: next,
      ...(waits !== undefined && waits.size > 0 && { meta: { ordered: true } }),
    }
  }

  /** A region of a slip that begins when others are done: each end of one of them may be the last. */
  #waiting(parallel: string, before: readonly string[], target: string): object {
    const on = before.map((step) => {
      const others = before.filter((other) => other !== step)
      const guard = inStates(others.map((other) => `#${this.#name}.${parallel}.${other}.done`))
      return [`xstate.done.actor.${step}`, { target, ...(others.length > 0 && { guard }) }]
    })
    return { on: Object.fromEntries(on) }
  }

  #choice(node: ChoiceNode, { name, view }: Part, next: string, region: Region): object {
    const guarded = node.branches.map(({ when, flow }, index) => {
      const guard = this.#guard(`${name}.${index + 1}`, when, view)
      return { guard, target: this.#sequence(this.#parts(flow, view), next, region) }
    })
    const otherwise = this.#sequence(this.#parts(node.otherwise, view), next, region)
    return { always: [...guarded, { target: otherwise }] }
  }

  #loop(node: LoopNode, { name, view }: Part, next: string, region: Region): object {
    const count = ({ counts }: FlowMachineContext): number => counts?.[name] ?? 0
    const again = this.#guard(`${name}.while`, node.while, view)
    const body = this.#sequence(this.#parts(node.flow, view), name, region)
    if (body === name) throw new EscrowError('invalidArgument', `${name}: the flow of a loop is empty`)
    this.#guards[`${name}.max`] = ({ context }) =>
      count(context) >= node.max && this.#guards[again]?.({ context }) === true
    this.#actions[`${name}.count`] = (context) => ({
      counts: { ...context.counts, [name]: count(context) + 1 },
    })
    this.#actions[`${name}.end`] = ({ counts = {} }) => {
      const { [name]: _, ...others } = counts
      return { counts: Object.keys(others).length === 0 ? undefined : others }
    }
    const onMax = node.onMax === 'fail' ? this.#failed : next
    return {
      meta: { loop: { max: node.max } },
      always: [
        { guard: `${name}.max`, target: onMax, actions: `${name}.end` },
        { guard: again, target: body, actions: `${name}.count` },
        { target: next, actions: `${name}.end` },
      ],
    }
  }

  #wait(node: WaitNode, { name, view }: Part, next: string, region: Region): object {
    const { signal, timeoutMs, onTimeout } = node
    if (!this.#signals.has(signal))
      throw new EscrowError(
        'invalidArgument',
        `${name}: the signal ${JSON.stringify(signal)} is not among the saga's signals`,
      )
    this.#actions[`${name}.take`] = ({ payloads }, event: { payload?: Json }) =>
      event.payload === undefined ? {} : { payloads: { ...payloads, [name]: event.payload } }
    const late =
      onTimeout === 'fail' ? this.#failed : this.#sequence(this.#parts(onTimeout, view), next, region)
    return { on: { [signal]: { target: next, actions: `${name}.take` } }, after: { [timeoutMs]: late } }
  }

  #guard(guard: string, when: Mapping<never, boolean>, view: View): string {
    if (typeof when !== 'function') throw new EscrowError('invalidArgument', `${guard} is no function`)
    this.#guards[guard] = ({ context }) => call(when, view.context(context)) === true
    return guard
  }

  get #failed(): string {
    return `#${this.#name}.failed`
  }
}

/** What a saga says of itself as a whole has no meaning once it is a part: refused, as nobody would see it ignored. */
function subProblem(path: string, option: string): SagaProblem {
  return {
    check: 'subSagaOptions',
    path,
    message: `its ${option} would count for nothing inside of another saga`,
    remedy: `inline a definition without ${option}, and give ${option === 'timeoutMs' ? 'the outer saga a timeoutMs, or steps a stepTimeoutMs' : 'the outer saga, or steps, their attributes'}`,
  }
}
