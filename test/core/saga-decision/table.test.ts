/** Every state answers every command: the table in `image.ts`, cell by cell. */
import { expect, test } from 'vitest'
import { decideSaga } from '../../../src/core/saga/decide-saga.ts'
import type { SagaCommand, SagaDecision, SagaEffect } from '../../../src/core/saga/decision.ts'
import { sagaStatusOf } from '../../../src/core/saga/image.ts'
import { fakeProgram, policy, seq, signal, step } from './fake-program.ts'
import { Driven, head, momentOf, outcome } from './fixtures.ts'

const policies = [
  policy('a'),
  policy('pivot', { class: 'pivot', compensation: undefined }),
  policy('ship', { class: 'retriable', compensation: undefined }),
]
const flow = seq(step('a'), signal('go'), step('pivot'), step('ship'))
let isBroken = false
const guard = (): void => {
  if (isBroken) throw new Error('broken')
}
const program = fakeProgram({ flow, policies, signals: ['go'], guard })
const two = fakeProgram({
  flow,
  policies,
  signals: ['go'],
  version: 2,
  migrations: { 1: (state) => state },
})

const go: SagaCommand = { type: 'signalSaga', signal: 'go', payload: '', signalId: '' }
const running = (): Driven => new Driven(program).start({ deadlineAtMs: 1_000_100 })
const waiting = (): Driven => running().answer(1, outcome('done'))
const pivoting = (): Driven => waiting().do(go)
const undoing = (): Driven => waiting().do({ type: 'cancelSaga', reason: 'no' })
const stuck = (): Driven => {
  const saga = running()
  isBroken = true
  saga.answer(1, outcome('done'))
  isBroken = false
  return saga
}

const states = {
  none: () => new Driven(program),
  /** Its first step is in flight. */
  running,
  waiting,
  /** What its first step gave can't be told to its machine. */
  stuck,
  /** Its pivot is parked. */
  pivotParked: () => {
    const saga = pivoting()
    for (let attempts = 0; attempts < 3; attempts++)
      saga.answer(2, outcome('unknown')).do({ type: 'dispatchStep', n: 2, operation: 'action' })
    return saga
  },
  /** Its last step is parked. */
  lastParked: () => pivoting().answer(2, outcome('done')).answer(3, outcome('refused')),
  pastPivot: pivoting,
  compensating: undoing,
  undoParked: () => undoing().answer(1, outcome('refused'), 'compensation'),
  completed: () => pivoting().answer(2, outcome('done')).answer(3, outcome('done')),
  compensated: () => undoing().answer(1, outcome('done'), 'compensation'),
  /** Running, but its definition is away. */
  held: running,
} satisfies Record<string, () => Driven>

/** The execution that is under way, or the first: what commands mean. */
const under = {
  none: 1,
  running: 1,
  waiting: 1,
  stuck: 1,
  pivotParked: 2,
  lastParked: 3,
  pastPivot: 2,
} as const
const numberOf = (state: StateName): number => (under as Record<string, number>)[state] ?? 1

const commands = {
  startAgain: () => ({ type: 'startSaga', head, businessKey: '', tags: {} }),
  startOther: () => ({
    type: 'startSaga',
    head: { ...head, contentHash: 'other' },
    businessKey: '',
    tags: {},
  }),
  signal: () => go,
  cancel: () => ({ type: 'cancelSaga', reason: 'no' }),
  complete: (n) => ({ type: 'completeStep', executionId: `e1.${n}`, attempt: 0, outcome: outcome('done') }),
  sayDone: (n) => answer(n, 'action', 'done'),
  sayFailed: (n) => answer(n, 'action', 'failed'),
  sayRefused: (n) => answer(n, 'action', 'refused'),
  sayUnknown: (n) => answer(n, 'action', 'unknown'),
  sayLater: (n) => answer(n, 'action', 'later'),
  sayNobody: (n) => answer(n, 'action', 'noSession'),
  sayUndone: (n) => answer(n, 'compensation', 'done'),
  sayNotUndone: (n) => answer(n, 'compensation', 'failed'),
  dispatch: (n) => ({ type: 'dispatchStep', n, operation: 'action' }),
  dispatchUndo: (n) => ({ type: 'dispatchStep', n, operation: 'compensation' }),
  timer: () => ({ type: 'timerDue', timer: '1' }),
  deadline: () => ({ type: 'deadlineDue' }),
  stepDeadline: (n) => ({ type: 'stepDeadlineDue', n }),
  retry: (n) => ({ type: 'retryExecution', executionId: `e1.${n}`, acceptPossibleDuplicate: false }),
  retrySaga: () => ({ type: 'retryExecution', executionId: 'e1', acceptPossibleDuplicate: false }),
  skip: (n) => ({ type: 'skipExecution', executionId: `e1.${n}` }),
  skipSaga: () => ({ type: 'skipExecution', executionId: 'e1' }),
  compensate: (n) => ({ type: 'compensateExecution', executionId: `e1.${n}` }),
  compensateSaga: () => ({ type: 'compensateExecution', executionId: 'e1' }),
  migrate: () => ({ type: 'migrateSaga', version: 2 }),
} satisfies Record<string, (n: number) => SagaCommand>

function answer(
  n: number,
  operation: 'action' | 'compensation',
  how: 'done' | 'failed' | 'refused' | 'unknown' | 'later' | 'noSession',
): SagaCommand {
  const said = how === 'noSession' ? ({ outcome: how, error: 'away' } as const) : outcome(how)
  return { type: 'answerStep', n, operation, attempt: 1, outcome: said }
}

type StateName = keyof typeof states
type CommandName = keyof typeof commands

/** In the order of the states: a code of a refusal; `-` for nothing; else the status that follows, with what leaves. */
const table: Record<CommandName, string> = {
  startAgain: 'running, call 1 | - | - | - | - | - | - | - | - | - | - | -',
  startOther:
    'running, call 1 | idReused | idReused | idReused | idReused | idReused | idReused | idReused | idReused | idReused | idReused | idReused',
  signal:
    'notFound | running | running, call 2 | parked | parked | parked | running | alreadyEnded | alreadyEnded | alreadyEnded | alreadyEnded | definitionMissing',
  cancel:
    'notFound | compensating | compensating, undo 1 | compensating, undo 1 | pastPivot | pastPivot | pastPivot | - | - | alreadyEnded | - | definitionMissing',
  complete:
    'notFound | running | - | - | running, call 3 | completed | running, call 3 | - | - | - | - | definitionMissing',
  sayDone: '- | running | - | - | running, call 3 | completed | running, call 3 | - | - | - | - | -',
  sayFailed: '- | running | - | - | - | - | running | - | - | - | - | -',
  sayRefused: '- | compensated | - | - | compensating, undo 1 | - | compensating, undo 1 | - | - | - | - | -',
  sayUnknown: '- | running | - | - | - | - | running | - | - | - | - | -',
  sayLater: '- | running | - | - | - | - | running | - | - | - | - | -',
  sayNobody: '- | running | - | - | - | - | running | - | - | - | - | -',
  sayUndone: '- | - | - | - | - | - | - | compensated | compensated | - | - | -',
  sayNotUndone: '- | - | - | - | - | - | - | compensating | - | - | - | -',
  dispatch: '- | running, call 1 | - | - | - | - | running, call 2 | - | - | - | - | -',
  dispatchUndo: '- | - | - | - | - | - | - | compensating, undo 1 | - | - | - | -',
  timer: '- | - | - | - | - | - | - | - | - | - | - | -',
  deadline: '- | compensating | compensating, undo 1 | compensating, undo 1 | - | - | - | - | - | - | - | -',
  stepDeadline: '- | - | - | - | - | - | - | - | - | - | - | -',
  retry:
    'notFound | notParked | notParked | notParked | running, call 2 | running, call 3 | notParked | notParked | compensating, undo 1 | notParked | notParked | definitionMissing',
  retrySaga:
    'notFound | notParked | notParked | running | notParked | notParked | notParked | notParked | notParked | notParked | notParked | definitionMissing',
  skip: 'notFound | notParked | notParked | notParked | running, call 3 | completed | notParked | notParked | compensated | notParked | notParked | definitionMissing',
  skipSaga:
    'notFound | notParked | notParked | unsupported | notParked | notParked | notParked | notParked | notParked | notParked | notParked | definitionMissing',
  compensate:
    'notFound | notParked | notParked | notParked | compensating, undo 1 | pastPivot | notParked | notParked | compensating, undo 1 | notParked | notParked | definitionMissing',
  compensateSaga:
    'notFound | notParked | notParked | compensating, undo 1 | notParked | notParked | notParked | notParked | notParked | notParked | notParked | definitionMissing',
  migrate:
    'notFound | running | running | parked | parked | parked | running | compensating | parked | alreadyEnded | alreadyEnded | running',
}

const effectText = (effect: SagaEffect): string =>
  `${effect.type === 'StepCall' && effect.operation === 'compensation' ? 'undo' : 'call'} ${effect.n}`

function cellOf({ next, effects, refused }: SagaDecision): string {
  if (refused !== undefined) return refused.code
  if (next === undefined) return effects.length === 0 ? '-' : 'effects without an image'
  return [sagaStatusOf(next), ...effects.map(effectText)].join(', ')
}

test.each(Object.keys(commands) as CommandName[])('%s has an answer in every state', (name) => {
  const cells = Object.entries(states).map(([state, make]) => {
    const { image } = make()
    const moment = momentOf(program, {
      wallMs: 1_000_100,
      logMs: 900_100,
      program: ({ version }) => (version === 2 ? two : state === 'held' ? undefined : program),
      definition: (_, version) => (version === 2 ? two : undefined),
    })
    return cellOf(decideSaga(image, commands[name](numberOf(state as StateName)), moment))
  })
  expect(cells.join(' | ')).toBe(table[name])
})

test('a refusal changes nothing and lets nothing leave', () => {
  for (const [state, make] of Object.entries(states)) {
    for (const command of Object.values(commands)) {
      const decision = decideSaga(make().image, command(numberOf(state as StateName)), momentOf(program))
      if (decision.refused !== undefined) expect(decision).toEqual({ effects: [], refused: decision.refused })
    }
  }
})
