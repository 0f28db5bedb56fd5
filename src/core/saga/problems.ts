/** What is wrong with a definition, told with its place and what to do. */
import { EscrowError } from '../errors.ts'

/** The checks that a definition must pass. */
export type SagaCheck =
  | 'compensationMissing'
  | 'compensationUnreachable'
  | 'irreversibleBeforePivot'
  | 'messageBeforePivot'
  | 'pivotInParallel'
  | 'secondPivot'
  | 'pivotLeft'
  | 'beforeAndAfterPivot'
  | 'failureAfterPivot'
  | 'stepTimeoutAfterPivot'
  | 'unreachableState'
  | 'endlessAlways'
  | 'waitWithoutDeadline'
  | 'inlineActor'
  | 'localActor'
  | 'unknownStep'
  | 'unusedStep'
  | 'spawnedActor'
  | 'customAction'
  | 'unknownImplementation'
  | 'duplicateInvocation'
  | 'ambiguousMeta'
  | 'reservedName'
  | 'subSagaOptions'

/** One thing that is wrong with a definition. */
export interface SagaProblem {
  readonly check: SagaCheck
  /** Where: keys of states from the root, with dots. */
  readonly path: string
  readonly message: string
  /** What to do about it. */
  readonly remedy: string
}

/** The problems that one error tells of. */
const PROBLEMS_MAX = 20

/** Throws `invalidSaga` where there are problems; `details` has the first one's check, path and remedy. */
export function refuseProblems(saga: string, problems: readonly SagaProblem[]): void {
  const [first] = problems
  if (first === undefined) return
  const lines = problems
    .slice(0, PROBLEMS_MAX)
    .map(({ path, message, remedy }) => `${path}: ${message}: ${remedy}`)
  if (problems.length > PROBLEMS_MAX) lines.push(`and ${problems.length - PROBLEMS_MAX} more`)
  throw new EscrowError('invalidSaga', `saga ${JSON.stringify(saga)}: ${lines.join('\n')}`, {
    details: { check: first.check, path: first.path, remedy: first.remedy },
  })
}
