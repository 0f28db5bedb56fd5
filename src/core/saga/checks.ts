/**
 * What a definition is held to before it is taken, on the graph of its machine. A pivot divides the machine in two:
 *
 * | can come      | class of its steps            | may fail | needs a compensation      |
 * |---------------|-------------------------------|----------|---------------------------|
 * | before it     | compensatable or irreversible | yes      | yes, or is marked         |
 * | it            | pivot                         | yes      | no: it did nothing if it fails |
 * | only after it | retriable                     | no       | no: there is no way back  |
 */
import {
  ancestorsOf,
  type Call,
  callsOf,
  type Edge,
  edgesOf,
  pathOf,
  reach,
  statesOf,
} from './chart-graph.ts'
import type { PlannedStep } from './policy.ts'
import type { SagaCheck, SagaProblem } from './problems.ts'
import type { StepClass } from './program.ts'
import { type AnyStateMachine, type AnyStateNode, FAILED } from './statechart.ts'

/** What is looked at. */
export interface CheckedSaga {
  readonly machine: AnyStateMachine
  readonly steps: ReadonlyMap<string, PlannedStep>
  /** 0: none. */
  readonly timeoutMs: number
}

/** The class of each step, and what is wrong. */
export function checkGraph(saga: CheckedSaga): {
  readonly classes: ReadonlyMap<string, StepClass>
  readonly problems: readonly SagaProblem[]
} {
  const phases = new Phases(saga)
  const classes = new Map([...saga.steps].map(([step, planned]) => [step, phases.classOf(step, planned)]))
  const problems = [
    ...unreachable(phases),
    ...phases.pivots.flatMap((pivot) => pivotProblems(pivot, phases)),
    ...phases.calls.flatMap((call) => callProblems(call, phases)),
    ...failuresAfterPivot(phases),
    ...endlessAlways(phases),
    ...waitsWithoutDeadline(phases),
  ]
  return { classes, problems }
}

/** Which states can come before the pivot, and which after. */
class Phases {
  readonly saga: CheckedSaga
  readonly calls: readonly Call[]
  readonly pivots: readonly Call[]
  readonly all: ReadonlySet<AnyStateNode>
  readonly before: ReadonlySet<AnyStateNode>
  readonly after: ReadonlySet<AnyStateNode>

  constructor(saga: CheckedSaga) {
    const { root } = saga.machine
    this.saga = saga
    this.calls = callsOf(saga.machine)
    this.pivots = this.calls.filter(({ step }) => saga.steps.get(step)?.isPivot)
    const done = new Set(this.pivots.map(({ id }) => `xstate.done.actor.${id}`))
    this.all = reach([root])
    this.before = this.pivots.length === 0 ? this.all : reach([root], ({ event }) => !done.has(event))
    const passed = statesOf(root).flatMap((node) => edgesOf(node).filter(({ event }) => done.has(event)))
    this.after = reach(
      passed.flatMap(({ targets }) => targets),
      forward,
    )
  }

  planned(call: Call): PlannedStep | undefined {
    return this.saga.steps.get(call.step)
  }

  isOnlyAfter({ node }: Call): boolean {
    return this.after.has(node) && !this.before.has(node)
  }

  classOf(step: string, planned: PlannedStep): StepClass {
    if (planned.isPivot) return 'pivot'
    if (planned.destination !== '') return 'retriable'
    const calls = this.calls.filter((call) => call.step === step)
    if (calls.length > 0 && calls.every((call) => this.isOnlyAfter(call))) return 'retriable'
    return planned.settings.compensation === undefined ? 'irreversible' : 'compensatable'
  }
}

/** Behind the pivot no step fails: it is tried until it is done. */
const forward = ({ event }: Edge): boolean => !event.startsWith('xstate.error.actor.')

const problem = (check: SagaCheck, path: string, message: string, remedy: string): SagaProblem => ({
  check,
  path,
  message,
  remedy,
})

function unreachable({ saga, all }: Phases): readonly SagaProblem[] {
  return statesOf(saga.machine.root)
    .filter((node) => !all.has(node) && (node.parent === undefined || all.has(node.parent)))
    .map((node) =>
      problem(
        'unreachableState',
        pathOf(node),
        'no transition leads here',
        'add one, or take the state away; what stands behind a transition without a guard is never tried',
      ),
    )
}

function pivotProblems(pivot: Call, { after }: Phases): readonly SagaProblem[] {
  const { node, step } = pivot
  const path = pathOf(node)
  const found: SagaProblem[] = []
  if (ancestorsOf(node).some(({ type }) => type === 'parallel'))
    found.push(
      problem(
        'pivotInParallel',
        path,
        `the pivot ${JSON.stringify(step)} stands in a parallel state, where others may still fail`,
        'put it behind the parallel state',
      ),
    )
  if (after.has(node))
    found.push(
      problem(
        'secondPivot',
        path,
        `the pivot ${JSON.stringify(step)} can come after a pivot`,
        'leave one pivot on each path, and none in a loop: what follows it is tried until it is done',
      ),
    )
  const own = [`xstate.done.actor.${pivot.id}`, `xstate.error.actor.${pivot.id}`]
  const left = edgesOf(node).find(({ event, targets }) => !own.includes(event) && targets.length > 0)
  if (left !== undefined)
    found.push(
      problem(
        'pivotLeft',
        path,
        `the pivot's state can be left by ${JSON.stringify(left.event)} while its outcome is unknown`,
        "leave it by the step's own outcome only; the step's time-outs are in its policy",
      ),
    )
  return found
}

function callProblems(call: Call, phases: Phases): readonly SagaProblem[] {
  const planned = phases.planned(call)
  if (planned === undefined) return []
  const path = pathOf(call.node)
  const name = JSON.stringify(call.step)
  const { compensation, irreversible, readOnly, stepTimeoutMs } = planned.settings
  const isMarked = irreversible === true || readOnly === true
  if (planned.isPivot || phases.isOnlyAfter(call)) {
    if (compensation !== undefined)
      return [
        problem(
          'compensationUnreachable',
          path,
          `the compensation of ${name} can never be called: nothing is undone from the pivot on`,
          'take it away, or put the step before the pivot',
        ),
      ]
    if (!planned.isPivot && (stepTimeoutMs ?? 0) > 0)
      return [
        problem(
          'stepTimeoutAfterPivot',
          path,
          `${name} comes after the pivot and has a stepTimeoutMs, but nothing is undone there`,
          'take it away: the step is tried until it is done',
        ),
      ]
    return []
  }
  if (planned.destination !== '')
    return [
      problem(
        'messageBeforePivot',
        path,
        `the message ${name} can't be unsent, and what comes later may fail`,
        'send it after the pivot',
      ),
    ]
  if (phases.after.has(call.node))
    return [
      problem(
        'beforeAndAfterPivot',
        path,
        `${name} can come before the pivot and after it`,
        'name two steps, or give every branch of the choice its pivot',
      ),
    ]
  if (compensation !== undefined && isMarked)
    return [
      problem(
        'compensationUnreachable',
        path,
        `${name} has a compensation and is marked ${irreversible === true ? 'irreversible' : 'readOnly'}`,
        'leave one of both',
      ),
    ]
  if (compensation === undefined && !isMarked)
    return [
      problem(
        'compensationMissing',
        path,
        `${name} has no compensation`,
        'give it one, or mark it readOnly (nothing to undo), irreversible (accepted), or as the pivot',
      ),
    ]
  if (irreversible === true && leadsToPivot(call, phases))
    return [
      problem(
        'irreversibleBeforePivot',
        path,
        `${name} can't be undone, but comes before the pivot`,
        'make it the pivot, or put it after the pivot',
      ),
    ]
  return []
}

function leadsToPivot({ node }: Call, { pivots, before }: Phases): boolean {
  if (pivots.length === 0) return false
  const reached = reach([node], ({ source, targets }) => before.has(source) && targets.length > 0)
  return pivots.some((pivot) => pivot.node !== node && reached.has(pivot.node))
}

function failuresAfterPivot({ after }: Phases): readonly SagaProblem[] {
  const failing = [...after].flatMap((source) =>
    edgesOf(source).filter(
      (edge) => forward(edge) && edge.targets.some((target) => target.tags.includes(FAILED)),
    ),
  )
  return failing.map(({ source, event }) =>
    problem(
      'failureAfterPivot',
      pathOf(source),
      `${event === '' ? 'an always' : JSON.stringify(event)} leads to failure after the pivot, where nothing is undone`,
      'lead on: to another step, or to the end',
    ),
  )
}

/** Follows `always` transitions that nothing guards: a circle of them never comes to rest. */
function endlessAlways({ saga }: Phases): readonly SagaProblem[] {
  const next = (node: AnyStateNode): Edge | undefined =>
    edgesOf(node).find(
      ({ event, isGuarded, targets, actions }) =>
        event === '' && !isGuarded && (targets.length > 0 || actions.length > 0),
    )
  const found: SagaProblem[] = []
  for (const start of statesOf(saga.machine.root)) {
    const visited: AnyStateNode[] = []
    let node: AnyStateNode | undefined = start
    while (node !== undefined && !visited.includes(node)) {
      visited.push(node)
      node = restlessAfter(next(node), next)
    }
    // Told once, at the first state of the circle in document order.
    if (node !== start || visited.some((each) => each.order < start.order)) continue
    const circle = visited.map(pathOf).join(' → ')
    found.push(
      problem(
        'endlessAlways',
        pathOf(start),
        `always leads in a circle (${circle}) that no guard ends`,
        'guard one of the transitions, or let it wait for an event',
      ),
    )
  }
  return found
}

/** The state whose unguarded `always` is taken once an edge was, if any. */
function restlessAfter(
  edge: Edge | undefined,
  next: (node: AnyStateNode) => Edge | undefined,
): AnyStateNode | undefined {
  if (edge === undefined) return undefined
  if (edge.targets.length === 0) return edge.source
  const entered = edge.targets.flatMap((target) => {
    const around = domainOf(edge, target)
    const outside = ancestorsOf(target)
    const isActive = (node: AnyStateNode): boolean =>
      outside.includes(node) || ancestorsOf(node).includes(around)
    const inside = [...reach([target], () => false)].filter(isActive)
    return inside.sort((one, other) => other.path.length - one.path.length)
  })
  return entered.find((node) => next(node) !== undefined)
}

/** The innermost state that an edge doesn't leave: regions beside it go on as they were. */
function domainOf({ source, isReentering }: Edge, target: AnyStateNode): AnyStateNode {
  const kept = isReentering ? ancestorsOf(source) : [source, ...ancestorsOf(source)]
  const isKept = (node: AnyStateNode): boolean => node.type !== 'parallel' && kept.includes(node)
  return ancestorsOf(target).find(isKept) ?? source.machine.root
}

/** A state that only an event from outside ends, with no timer on it or around it (I6). */
function waitsWithoutDeadline({ saga, all, after }: Phases): readonly SagaProblem[] {
  const isTimed = (node: AnyStateNode): boolean =>
    node.after.length > 0 ||
    (node.always ?? []).length > 0 ||
    node.invoke.length > 0 ||
    edgesOf(node).some(
      ({ event }) => /^xstate\.(done|after)\./.test(event) && !event.startsWith('xstate.done.state.'),
    )
  return [...all]
    .filter((node) => node.type === 'atomic' && ![node, ...ancestorsOf(node)].some(isTimed))
    .filter((node) => !node.tags.includes(FAILED) && (saga.timeoutMs === 0 || after.has(node)))
    .map((node) =>
      problem(
        'waitWithoutDeadline',
        pathOf(node),
        'this state may wait for ever',
        'give it an `after`, or the saga a timeoutMs where the pivot is still to come',
      ),
    )
}
