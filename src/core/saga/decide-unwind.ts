/** Undoing: what is done is compensated in reverse, branches each for themselves. The order is that of `unwind-order.ts`. */
import { dispatch, hasBarrier, newOperation, park, stop } from './decide-step.ts'
import type { Draft } from './draft.ts'
import { mayHaveHappened, type SagaState } from './image.ts'
import { Blockers, isToBeUndone, type PendingUndo, pendingUndo } from './unwind-order.ts'

/** The saga gives up: no attempt of an action starts any more, and once nothing is in flight, what was done is undone. */
export function beginUnwinding(draft: Draft, reason: string): void {
  draft.next.phase = 'compensating'
  draft.next.reason = reason
  draft.clearWaits()
  for (const n of draft.next.active) stop(draft, draft.execution(n))
}

/** Has as much undone as can be now, and ends what has nothing left to do. */
export function settle(draft: Draft): void {
  if (draft.next.phase === 'running') {
    for (const n of draft.abandoned ?? []) undo(draft, n)
    const isOver =
      draft.next.isMachineDone && draft.next.active.length === 0 && draft.next.undoing.length === 0
    if (isOver) finish(draft, 'completed')
  } else if (draft.next.phase === 'compensating' && draft.next.active.length === 0) {
    undoNext(draft)
  }
}

/** Begins to undo an execution, once. Parked at once where only a barrier could tell whether there is anything to undo. */
function undo(draft: Draft, n: number): void {
  const execution = draft.execution(n)
  if (!isToBeUndone(execution)) return
  const begun = draft.put({ ...execution, compensation: newOperation(draft) })
  const policy = draft.policyOf(execution)
  if (!execution.isDone && !(policy !== undefined && hasBarrier(execution, policy))) {
    park(
      draft,
      begun,
      'compensation',
      'nobody knows whether the action happened, and no barrier can tell: compensate it if it did, else skip it',
    )
    return
  }
  dispatch(draft, begun, 'compensation')
}

/** Walks from what ended last to where everything below waits for something above. */
function undoNext(draft: Draft): void {
  const plan = draft.next.plan ?? { top: pendingUndo(draft.next.executions) }
  const blockers = new Blockers()
  for (const n of draft.next.undoing) blockers.add(draft.execution(n))
  const kept: PendingUndo[] = []
  let at = plan.top
  while (at !== undefined && !blockers.blockAllUntil(at.ended)) {
    if (draft.next.undoing.length < draft.moment.limits.activeMax && !blockers.block(at)) undo(draft, at.n)
    else kept.push(at)
    blockers.add(at)
    at = at.rest
  }
  if (at !== plan.top || draft.next.plan === undefined) {
    let top = at
    for (let last = kept.pop(); last !== undefined; last = kept.pop()) top = { ...last, rest: top }
    draft.next.plan = { top }
  }
  if (draft.next.plan?.top === undefined && draft.next.undoing.length === 0) finish(draft, 'compensated')
}

function finish(draft: Draft, phase: 'completed' | 'compensated'): void {
  draft.next.phase = phase
  draft.next.finishedAtMs = draft.moment.wallMs
  draft.next.plan = undefined
  draft.clearWaits()
}

/** Whether the saga can still be undone: no pivot is under way or done. */
export const isPastPivot = ({ pivot }: Pick<SagaState, 'pivot'>): boolean => pivot !== 0

/** Whether a parked compensation waits for somebody to say whether its action happened. */
export function isUnclear(draft: Draft, n: number): boolean {
  const execution = draft.execution(n)
  const { compensation, isDone } = execution
  return (
    !isDone &&
    mayHaveHappened(execution) &&
    compensation?.firstDispatchAtMs === 0 &&
    compensation.attempts === 0
  )
}
