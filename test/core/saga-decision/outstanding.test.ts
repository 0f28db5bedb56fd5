/** What a saga waits for: nobody looks at one again before an answer, where it is said to wait for answers only. */
import { expect, test } from 'vitest'
import { awaitsOnlyAnswers, outstandingOfSaga } from '../../../src/core/saga/outstanding.ts'
import { all, fakeProgram, policy, seq, step } from './fake-program.ts'
import { Driven, outcome, WALL_MS } from './fixtures.ts'

const a = policy('a')
const b = policy('b')
const two = fakeProgram({ flow: all(step('a'), step('b')), policies: [a, b] })
const late = {
  ...two,
  steps: new Map([
    ['a', a],
    ['b', policy('b', { stepTimeoutMs: 60_000 })],
  ]),
}
const timed = fakeProgram({
  flow: all(step('a'), { kind: 'step', step: 'b', leaveAfterMs: 60_000 }),
  policies: [a, b],
})
const undone = (): Driven =>
  new Driven(fakeProgram({ flow: seq(step('a'), step('b')), policies: [a, b] }))
    .start()
    .answer(1, outcome('done'))
    .answer(2, outcome('refused'))

test('I6: a saga whose attempts are all in flight waits for their answers only', () => {
  for (const saga of [new Driven(two).start(), undone()]) {
    expect(awaitsOnlyAnswers(saga.image!)).toBe(true)
    expect(outstandingOfSaga(saga.image!).map(({ what }) => what)).not.toContain('stepDeadline')
  }
})

test.each<[string, Driven, string]>([
  ['the time-out of the saga', new Driven(two).start({ deadlineAtMs: WALL_MS + 60_000 }), 'deadline'],
  ['the time-out of a step', new Driven(late).start(), 'stepDeadline'],
  ['a timer of the machine', new Driven(timed).start(), 'timer'],
  ['somebody who completes a step', new Driven(two).start().answer(2, outcome('later')), 'stepDeadline'],
  ['the next attempt of a step', new Driven(two).start().answer(2, outcome('failed')), 'stepDeadline'],
  [
    'the next attempt of a compensation',
    undone().answer(1, outcome('failed'), 'compensation'),
    'stepDeadline',
  ],
  ['somebody who takes a step', new Driven(two, { routeOf: () => undefined }).start(), 'stepDeadline'],
  [
    'the last answer to an attempt that is stopped',
    new Driven(two).start().do({ type: 'cancelSaga', reason: '' }),
    'stepDeadline',
  ],
])('I6: one that waits for %s, too, does not', (_, saga, what) => {
  expect(outstandingOfSaga(saga.image!).map((due) => due.what)).toContain(what)
  expect(awaitsOnlyAnswers(saga.image!)).toBe(false)
})
