/** Another definition for a saga that has begun under an old one: only when somebody asks for it (I8). */
import { brief } from '../decision.ts'
import { EscrowError } from '../errors.ts'
import { NOTHING_OF_SAGA, overBound, refuseSaga, type SagaDecision, type SagaMoment } from './decision.ts'
import { bytesOf, Draft, parsedOf } from './draft.ts'
import {
  type Execution,
  isActive,
  isUndoing,
  mayHaveHappened,
  type SagaHead,
  type SagaImage,
} from './image.ts'
import { checkRunsOn } from './migrate.ts'
import type { Json, RunningParts, SagaProgram } from './program.ts'
import { isToBeUndone } from './unwind-order.ts'

/**
 * The draft of a saga under another version; nothing, if it is that version already; or the refusal, which changes
 * nothing. The old definition isn't needed: what runs is known of the image, so that a saga that is held for want of
 * its definition is freed by a migration. A machine that isn't driven any more, as its saga is undone or its flow is
 * done, is left as it is.
 */
export function migrate(image: SagaImage, version: number, moment: SagaMoment): Draft | SagaDecision {
  const { head, state } = image
  if (head.slip !== '') return refuseSaga('unsupported', 'a routing slip has no versions')
  if (head.version === version) return NOTHING_OF_SAGA
  const program = moment.definition(head.saga, version)
  if (program === undefined)
    return refuseSaga('unknownVersion', `saga ${JSON.stringify(head.saga)} has no version ${version} here`)
  if (!program.migratesFrom.has(head.version))
    return refuseSaga(
      'noMigration',
      `saga ${JSON.stringify(head.saga)}: version ${version} has no migration from version ${head.version}`,
    )
  const unfit = unfitStep(image, program)
  if (unfit !== undefined) return failed(head, version, unfit)
  const draft = new Draft({ ...head, version, hash: program.hash }, state, program, moment)
  const isDriven = state.phase === 'running' && !state.isMachineDone && state.machine.text !== ''
  if (!isDriven) return draft
  try {
    migrateMachine(draft, image, program)
    return draft
  } catch (thrown) {
    return failed(head, version, EscrowError.from(thrown).message)
  }
}

/** Throws what the user's function throws, and whatever doesn't fit. */
function migrateMachine(draft: Draft, { head, state }: SagaImage, program: SagaProgram): void {
  const stored = parsedOf(state.machine.text) as Json
  const migrated = program.migrate(head.version, stored, parsedOf(head.input))
  checkRunsOn(runningOf(state), migrated.running)
  const { text } = migrated.state
  const { contextBytesMax } = draft.moment.limits
  if (bytesOf(text) > contextBytesMax)
    throw overBound("the machine's state", bytesOf(text), 'contextBytesMax', contextBytesMax)
  draft.next.machine = { text, live: migrated.state }
  draft.next.awaited = [...program.signals].filter((signal) => migrated.takes(signal))
}

/** What of the machine runs, by the image: what it was not told the end of, and has not left. */
function runningOf({ active, executions, queue, timers }: SagaImage['state']): RunningParts {
  const untold = active.filter((n) => executions.get(n)?.action.status !== 'stopping')
  for (const event of queue) if (event.type === 'step') untold.push(event.n)
  const fired = queue.flatMap((event) => (event.type === 'timer' ? [event.timer] : []))
  return {
    invocations: untold.map((n) => executions.get(n)?.invocation ?? ''),
    timers: [...timers.map(({ timer }) => timer), ...fired],
  }
}

const failed = ({ saga, version: from }: SagaHead, to: number, why: string): SagaDecision =>
  refuseSaga(
    'migrationFailed',
    brief(`saga ${JSON.stringify(saga)} can't go on from version ${from} in version ${to}: ${why}`),
  )

/** Why a step doesn't fit that is under way or may have to be undone; undefined where all do. */
function unfitStep({ state }: SagaImage, program: SagaProgram): string | undefined {
  for (const execution of state.executions) {
    const isNeeded = isActive(execution) || isUndoing(execution) || isToBeUndone(execution)
    if (!isNeeded) continue
    const why = whyUnfit(execution, program, state.pivot)
    if (why !== undefined) return `step ${JSON.stringify(execution.step)} ${why}`
  }
  return undefined
}

function whyUnfit(execution: Execution, program: SagaProgram, pivot: number): string | undefined {
  const policy = program.steps.get(execution.step)
  if (policy === undefined) return 'is still needed, and not there any more'
  if (execution.hasCompensation && policy.compensation === undefined)
    return 'may have to be undone, and has no compensation any more'
  // What was sent as any step would let the saga be undone behind its pivot.
  const wasSent = mayHaveHappened(execution) || execution.action.firstDispatchAtMs > 0
  if (policy.class === 'pivot' && pivot !== execution.n && wasSent) return 'was sent, and would be the pivot'
  return undefined
}
