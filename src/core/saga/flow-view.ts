/** What mappings and guards of a flow see: the machine's own context, and results that are kept outside of it. */
import { EscrowError } from '../errors.ts'
import type { ContextKeeping } from './chart-state.ts'
import type { FlowContext, FlowNode, FlowResults, Handle, Mapping, SubNode } from './flow.ts'
import type { Json, StepResults } from './program.ts'
import { parseValue } from './schema.ts'

/** The context of a flow's machine. The input is not kept with it: whoever restores gives it again. */
export interface FlowMachineContext {
  readonly input: Json | undefined
  /** Iterations of loops that are under way. */
  readonly counts?: Readonly<Record<string, number>>
  /** Payloads of signals that were waited for, by the name of the wait. */
  readonly payloads?: Readonly<Record<string, Json>>
}

/** Keeps the context without the input. */
export const FLOW_CONTEXT: ContextKeeping = {
  keep: (context) => {
    const { counts, payloads } = context as FlowMachineContext
    if (counts === undefined && payloads === undefined) return undefined
    return { ...(counts !== undefined && { counts }), ...(payloads !== undefined && { payloads }) }
  },
  revive: (kept, input) => (kept === undefined ? { input } : { ...(kept as object), input }),
  inputIn: (context) => (context as FlowMachineContext).input,
}

/** The results that the turn under way is given. One for each definition; set before a turn, read within it. */
export class CurrentResults implements StepResults {
  #results: StepResults | undefined
  #step: string | undefined
  #result: Json | undefined

  /** Takes the results of a turn, with the one that makes the turn laid over them. */
  set(results: StepResults | undefined, step?: string, result?: Json): void {
    this.#results = results
    this.#step = step
    this.#result = result
  }

  get(step: string): Json | undefined {
    return step === this.#step ? this.#result : this.#results?.get(step)
  }
}

/** What a flow's functions see from where they stand: a sub-saga sees its own input, and its own names. */
export interface View {
  readonly prefix: string
  readonly input: (of: FlowMachineContext) => unknown
  readonly context: (of: FlowMachineContext) => FlowContext<unknown>
}

/** The view of a definition's own flow. */
export function rootView(results: StepResults): View {
  const view: View = {
    prefix: '',
    input: (of) => of.input,
    context: (of) => ({ input: of.input, results: resultsIn(view, of, results) }),
  }
  return view
}

/** The view of a sub-saga. Its input is mapped anew whenever it is needed: mappings are pure. */
export function subView(outer: View, sub: SubNode, results: StepResults): View {
  const view: View = {
    prefix: `${outer.prefix}${sub.name}/`,
    input: (of) => {
      const given = sub.input === undefined ? outer.input(of) : call(sub.input, outer.context(of))
      return parseValue(sub.saga.input, given, `the input of sub-saga ${JSON.stringify(sub.name)}`)
    },
    context: (of) => ({ input: view.input(of), results: resultsIn(view, of, results) }),
  }
  return view
}

/** Calls a user's function with what it sees. */
export function call<Value>(mapping: Mapping<never, Value>, context: FlowContext<unknown>): Value {
  const value = mapping(context as FlowContext<never>)
  if (value instanceof Promise) {
    value.catch(() => {})
    throw new EscrowError(
      'invalidArgument',
      'a mapping or guard answered by a promise: give one that answers at once',
    )
  }
  return value
}

function resultsIn(view: View, of: FlowMachineContext, results: StepResults): FlowResults {
  const read = (handle: string | Handle<unknown>): unknown => {
    if (typeof handle === 'string') return results.get(view.prefix + handle)
    const node = handle as Extract<FlowNode, Handle<unknown>>
    switch (node.kind) {
      case 'wait':
        return of.payloads?.[view.prefix + node.name]
      case 'sub': {
        const { output } = node.saga
        return output === undefined ? undefined : call(output, subView(view, node, results).context(of))
      }
      default:
        return results.get(view.prefix + node.name)
    }
  }
  return Object.assign(read, { maybe: read }) as FlowResults
}
