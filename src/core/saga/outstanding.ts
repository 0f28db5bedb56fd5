/** What is still to be done about a saga: all that a restart needs to know of its image. */
import type { Execution, OperationState, SagaImage } from './image.ts'

/** Something still to be done, when, by which clock, and by which command. */
export type OutstandingSaga =
  /** `dispatchStep`: an attempt that is due, or in flight. */
  | {
      readonly what: 'step'
      readonly n: number
      readonly operation: 'action' | 'compensation'
      readonly clock: 'log'
      readonly atMs: number
    }
  /** `stepDeadlineDue` */
  | {
      readonly what: 'stepDeadline'
      readonly n: number
      readonly clock: 'log' | 'wall'
      readonly atMs: number
    }
  /** `timerDue` */
  | { readonly what: 'timer'; readonly timer: string; readonly clock: 'log'; readonly atMs: number }
  /** `deadlineDue` */
  | { readonly what: 'deadline'; readonly clock: 'wall'; readonly atMs: number }

/** What is still to be done. Costs as much as is under way, not as much as was done. */
export function outstandingOfSaga({ head, state }: SagaImage): readonly OutstandingSaga[] {
  const { phase, executions } = state
  if (phase === 'completed' || phase === 'compensated') return []
  const all: OutstandingSaga[] = []
  for (const n of state.active) ofAction(executions.get(n) as Execution, all)
  for (const n of state.undoing) ofCompensation(executions.get(n) as Execution, all)
  if (phase === 'compensating') return all
  if (head.deadlineAtMs > 0 && state.pivot === 0 && !state.isMachineDone)
    all.push({ what: 'deadline', clock: 'wall', atMs: head.deadlineAtMs })
  // While it is stuck nothing can be told to the machine: its timers are due when it goes on.
  if (state.stuck === '')
    for (const { timer, atMs } of state.timers) all.push({ what: 'timer', timer, clock: 'log', atMs })
  return all
}

/** Whether nothing is due but the attempts in flight, and their answers: so it is with most sagas. Hot. */
export function awaitsOnlyAnswers({ head, state }: SagaImage): boolean {
  const { executions, active, undoing } = state
  if (state.timers.length > 0 || head.deadlineAtMs > 0) return false
  for (const n of active) {
    const { action, stepDeadlineAtMs } = executions.get(n) as Execution
    if (action.status !== 'running' || action.attemptDeadlineAtMs === 0 || stepDeadlineAtMs > 0) return false
  }
  for (const n of undoing) {
    // One that is parked is in flight no more.
    if (executions.get(n)?.compensation?.attemptDeadlineAtMs === 0) return false
  }
  return true
}

function ofAction({ n, action, stepDeadlineAtMs }: Execution, all: OutstandingSaga[]): void {
  if (action.status === 'stopping') {
    all.push({ what: 'stepDeadline', n, clock: 'log', atMs: action.attemptDeadlineAtMs })
    return
  }
  if (action.status !== 'running') return
  if (stepDeadlineAtMs > 0) all.push({ what: 'stepDeadline', n, clock: 'log', atMs: stepDeadlineAtMs })
  ofOperation(n, 'action', action, all)
}

function ofCompensation({ n, compensation }: Execution, all: OutstandingSaga[]): void {
  if (compensation?.status === 'running') ofOperation(n, 'compensation', compensation, all)
}

function ofOperation(
  n: number,
  operation: 'action' | 'compensation',
  half: OperationState,
  all: OutstandingSaga[],
): void {
  if (!half.isLater) all.push({ what: 'step', n, operation, clock: 'log', atMs: half.nextAttemptAtMs })
  // Nobody may ever complete it, or take it.
  if (half.attemptDeadlineAtMs === 0)
    all.push({ what: 'stepDeadline', n, clock: 'wall', atMs: half.lastDispatchAtMs })
}
