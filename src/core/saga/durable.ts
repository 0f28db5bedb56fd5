/** What a machine may not hold, because it would not come back after a crash: told with its path. */
import { callsOf, pathOf, statesOf } from './chart-graph.ts'
import { SET_ATTRIBUTES } from './chart-turn.ts'
import { invokesOf } from './driven-config.ts'
import type { SagaCheck, SagaProblem } from './problems.ts'
import { type AnyStateMachine, type AnyStateNode, isStepLogic } from './statechart.ts'

interface Implementations {
  readonly actors: Readonly<Record<string, unknown>>
  readonly actions: Readonly<Record<string, unknown>>
  readonly guards: Readonly<Record<string, unknown>>
  readonly delays: Readonly<Record<string, unknown>>
}

interface Place {
  readonly path: string
  readonly implementations: Implementations
}

/** Built-in actions whose effect is durable: part of the state, or a timer. A log is dropped. */
const DURABLE_ACTIONS = [
  'xstate.assign',
  'xstate.raise',
  'xstate.cancel',
  'xstate.enqueueActions',
  'xstate.log',
]

/** Checks a machine whose steps are `steps`. */
export function checkDurable(machine: AnyStateMachine, steps: ReadonlySet<string>): readonly SagaProblem[] {
  const implementations = machine.implementations as Implementations
  return [
    ...statesOf(machine.root).flatMap((node) => {
      const place = { path: pathOf(node), implementations }
      return [
        ...invokeProblems(node, place, steps),
        ...actionsOf(node).flatMap((action) => actionProblems(action, place)),
        ...guardsOf(node).flatMap((guard) => guardProblems(guard, place)),
        ...delayProblems(node, place),
      ]
    }),
    ...duplicates(machine),
    ...unused(machine, steps),
  ]
}

const problem = (check: SagaCheck, path: string, message: string, remedy: string): SagaProblem => ({
  check,
  path,
  message,
  remedy,
})

function invokeProblems(
  node: AnyStateNode,
  place: Place,
  steps: ReadonlySet<string>,
): readonly SagaProblem[] {
  const { path, implementations } = place
  return invokesOf(node.config).flatMap((invoke) => {
    const { src } = invoke
    if (typeof src !== 'string')
      return [
        problem(
          'inlineActor',
          path,
          'an invoke holds an actor itself, which no row can keep',
          'name a step: `invoke: { src: "reserve" }`, with the step in `steps`',
        ),
      ]
    const name = JSON.stringify(src)
    const found: SagaProblem[] = []
    const actor = implementations.actors[src]
    if (actor !== undefined && !isStepLogic(actor))
      found.push(
        problem(
          'localActor',
          path,
          `the actor ${name} runs in this process (a promise, a callback or a machine), and would be lost with it`,
          `make it a step of a participant: \`actors: { ${src}: stepLogic() }\``,
        ),
      )
    if (!steps.has(src))
      found.push(problem('unknownStep', path, `${name} names no step`, `add ${name} to \`steps\``))
    for (const option of ['onSnapshot', 'systemId'])
      if (option in invoke)
        found.push(
          problem('spawnedActor', path, `a step has no ${option}`, `take ${option} away: a step only ends`),
        )
    return found
  })
}

interface WithTransitions {
  readonly transitions: ReadonlyMap<string, readonly Candidate[]>
  readonly always?: readonly Candidate[]
}

interface Candidate {
  readonly actions: readonly unknown[]
  readonly guard?: unknown
}

function candidatesOf(node: AnyStateNode): readonly Candidate[] {
  const { transitions, always = [] } = node as unknown as WithTransitions
  return [...always, ...[...transitions.values()].flat()]
}

function actionsOf(node: AnyStateNode): readonly unknown[] {
  const initial = node.type === 'compound' ? (node.initial.actions as readonly unknown[]) : []
  return [...node.entry, ...node.exit, ...initial, ...candidatesOf(node).flatMap(({ actions }) => actions)]
}

function actionProblems(action: unknown, { path, implementations }: Place): readonly SagaProblem[] {
  const named = typeof action === 'function' ? undefined : nameOf(action)
  if (named === SET_ATTRIBUTES) return []
  const implemented = named === undefined ? action : implementations.actions[named]
  const name = named ?? (action as { name?: string }).name ?? ''
  if (typeof implemented !== 'function')
    return [
      problem(
        'unknownImplementation',
        path,
        `the action ${JSON.stringify(name)} has no implementation`,
        'give it one in setup({ actions })',
      ),
    ]
  const { type, resolve } = implemented as { type?: string; resolve?: unknown }
  if (resolve === undefined || type === undefined)
    return [
      problem(
        'customAction',
        path,
        `the action ${JSON.stringify(name)} runs code that no row remembers`,
        `make it a step, or an assign; search attributes are set by the action "${SET_ATTRIBUTES}"`,
      ),
    ]
  if (DURABLE_ACTIONS.includes(type)) return []
  return [
    problem(
      'spawnedActor',
      path,
      `the action ${type.replace('xstate.', '')} works on live actors, which no row can keep`,
      'invoke a step, or raise an event',
    ),
  ]
}

const guardsOf = (node: AnyStateNode): readonly unknown[] =>
  candidatesOf(node).flatMap(({ guard }) => (guard === undefined ? [] : [guard]))

function guardProblems(guard: unknown, { path, implementations }: Place): readonly SagaProblem[] {
  if (typeof guard === 'function') {
    const { guards } = guard as { guards?: readonly unknown[] }
    return (guards ?? []).flatMap((each) => guardProblems(each, { path, implementations }))
  }
  const name = nameOf(guard)
  if (name !== undefined && implementations.guards[name] !== undefined) return []
  return [
    problem(
      'unknownImplementation',
      path,
      `the guard ${JSON.stringify(name ?? '')} has no implementation`,
      'give it one in setup({ guards })',
    ),
  ]
}

/** A delay without an implementation would be no delay at all. */
function delayProblems(node: AnyStateNode, { path, implementations }: Place): readonly SagaProblem[] {
  return Object.keys((node.config as { after?: object }).after ?? {})
    .filter((delay) => Number.isNaN(Number(delay)) && implementations.delays[delay] === undefined)
    .map((delay) =>
      problem(
        'unknownImplementation',
        path,
        `the delay ${JSON.stringify(delay)} has no implementation`,
        'give it one in setup({ delays }), or milliseconds',
      ),
    )
}

function nameOf(reference: unknown): string | undefined {
  if (typeof reference === 'string') return reference
  const { type } = (reference ?? {}) as { type?: unknown }
  return typeof type === 'string' ? type : undefined
}

function duplicates(machine: AnyStateMachine): readonly SagaProblem[] {
  const seen = new Set<string>()
  return callsOf(machine).flatMap(({ id, node }) => {
    if (!seen.has(id)) {
      seen.add(id)
      return []
    }
    return [
      problem(
        'duplicateInvocation',
        pathOf(node),
        `another invoke has the id ${JSON.stringify(id)}`,
        'give each its own, or none',
      ),
    ]
  })
}

function unused(machine: AnyStateMachine, steps: ReadonlySet<string>): readonly SagaProblem[] {
  const invoked = new Set(callsOf(machine).map(({ step }) => step))
  return [...steps]
    .filter((step) => !invoked.has(step))
    .map((step) =>
      problem(
        'unusedStep',
        machine.id,
        `nothing invokes the step ${JSON.stringify(step)}`,
        'take it out of `steps`, or invoke it',
      ),
    )
}
