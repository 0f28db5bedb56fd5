import { NO_TRACE } from '../../../src/core/envelope.ts'
import type { ExecutionId, Namespace, TransactionId } from '../../../src/core/ids.ts'
import { decideSaga } from '../../../src/core/saga/decide-saga.ts'
import {
  DEFAULT_SAGA_LIMITS,
  type SagaCommand,
  type SagaDecision,
  type SagaEffect,
  type SagaMoment,
  type StepOperation,
  type StepOutcome,
} from '../../../src/core/saga/decision.ts'
import type { SagaHead, SagaImage } from '../../../src/core/saga/image.ts'
import type { SagaProgram } from '../../../src/core/saga/program.ts'

export const WALL_MS = 1_000_000
export const LOG_MS = 900_000

export const head: SagaHead = {
  kind: 'saga',
  namespace: 'default' as Namespace,
  id: 'order-1' as TransactionId,
  executionId: 'e1' as ExecutionId,
  saga: 'fake',
  version: 1,
  hash: 'hash-1',
  slip: '',
  orderingKey: '',
  input: '{"order":1}',
  trace: NO_TRACE,
  contentHash: 'content-1',
  startedAtMs: WALL_MS,
  startedAtLogMs: LOG_MS,
  deadlineAtMs: 0,
}

export const momentOf = (
  program: SagaProgram | undefined,
  changes: Partial<SagaMoment> = {},
): SagaMoment => ({
  wallMs: WALL_MS,
  logMs: LOG_MS,
  order: 1,
  random: () => 0.5,
  limits: DEFAULT_SAGA_LIMITS,
  program: () => program,
  definition: () => program,
  routeOf: () => ({ databaseId: 'db1' }),
  ...changes,
})

export const outcome = (how: StepOutcome['outcome'], changes: Partial<StepOutcome> = {}): StepOutcome => ({
  outcome: how,
  result: '',
  code: '',
  error: how === 'done' ? '' : `it ${how}`,
  ...changes,
})

/** A saga that is driven by hand: each command is decided on the image that the one before left. */
export class Driven {
  image: SagaImage | undefined
  moment: SagaMoment
  /** Everything that left, in order. */
  readonly effects: SagaEffect[] = []
  last: SagaDecision = { effects: [] }

  constructor(program: SagaProgram | undefined, changes: Partial<SagaMoment> = {}) {
    this.moment = momentOf(program, changes)
  }

  do(command: SagaCommand): this {
    this.last = decideSaga(this.image, command, this.moment)
    this.image = this.last.next ?? this.image
    this.effects.push(...this.last.effects)
    return this
  }

  start(changes: Partial<SagaHead> = {}): this {
    return this.do({ type: 'startSaga', head: { ...head, ...changes }, businessKey: '', tags: {} })
  }

  /** Answers the attempt that is under way. */
  answer(n: number, how: StepOutcome | 'noSession', operation: StepOperation = 'action'): this {
    const execution = this.state.executions.get(n)
    const half = operation === 'action' ? execution?.action : execution?.compensation
    const answered = how === 'noSession' ? ({ outcome: 'noSession', error: 'away' } as const) : how
    return this.do({
      type: 'answerStep',
      n,
      operation,
      attempt: (half?.attempts ?? 0) + 1,
      outcome: answered,
    })
  }

  /** Lets time pass, by both clocks. */
  pass(ms: number): this {
    this.moment = { ...this.moment, wallMs: this.moment.wallMs + ms, logMs: this.moment.logMs + ms }
    return this
  }

  get state(): SagaImage['state'] {
    if (this.image === undefined) throw new Error('the saga has not begun')
    return this.image.state
  }

  action(n: number) {
    return this.state.executions.get(n)?.action
  }

  compensation(n: number) {
    return this.state.executions.get(n)?.compensation
  }
}

export const call = (n: number, operation: StepOperation = 'action', attempt = 1): SagaEffect => ({
  type: 'StepCall',
  n,
  operation,
  attempt,
})
