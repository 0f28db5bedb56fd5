/** A step that answers `later` ends by a token: its execution, and the attempt that is meant where that matters. */
import { expect, test } from 'vitest'
import { fakeProgram, policy, step } from './fake-program.ts'
import { call, Driven, outcome } from './fixtures.ts'

const later = outcome('later')
const failed = outcome('failed')
const program = fakeProgram({ flow: step('a'), policies: [policy('a')] })

/** A saga whose step is at its second attempt, which goes on: nobody told what became of the first. */
function atSecond(databaseId: string): Driven {
  const saga = new Driven(program, { routeOf: () => ({ databaseId }) }).start().answer(1, outcome('unknown'))
  saga.pass(1_000).do({ type: 'dispatchStep', n: 1, operation: 'action' })
  expect(saga.last.effects).toEqual([call(1, 'action', 2)])
  return saga.answer(1, later)
}

const complete = (saga: Driven, attempt: number, how = failed): Driven =>
  saga.do({ type: 'completeStep', executionId: 'e1.1', attempt, outcome: how })

test.each(['failed', 'refused'] as const)(
  'without a barrier a stale `%s` of an older attempt ends nothing; one of the attempt under way does',
  (how) => {
    const saga = atSecond('')
    const { image } = saga
    complete(saga, 1, outcome(how))
    expect([saga.last, saga.image === image]).toEqual([{ effects: [] }, true])
    complete(saga, 3, outcome(how))
    expect(saga.image, 'an attempt that nobody made').toBe(image)
    complete(saga, 2, outcome(how))
    expect(saga.action(1)).toMatchObject({ attempts: 2, isLater: false })
  },
)

test('without a barrier one that names no attempt is refused where several may end, and nothing changes', () => {
  const saga = atSecond('')
  const { image } = saga
  complete(saga, 0)
  expect(saga.last.refused).toMatchObject({
    code: 'invalidArgument',
    message: expect.stringContaining('attempt 2'),
  })
  expect(saga.image).toBe(image)
  const first = complete(
    new Driven(program, { routeOf: () => ({ databaseId: '' }) }).start().answer(1, later),
    0,
  )
  expect(first.action(1), 'the first is the only one').toMatchObject({ attempts: 1, isLater: false })
})

test('one that is told twice counts once', () => {
  const saga = new Driven(program, { routeOf: () => ({ databaseId: '' }) }).start().answer(1, later)
  complete(saga, 1).pass(1_000).do({ type: 'dispatchStep', n: 1, operation: 'action' })
  saga.answer(1, later)
  const { image } = saga
  complete(saga, 1)
  expect([saga.last, saga.image === image]).toEqual([{ effects: [] }, true])
})

test('done is done, whichever attempt did it', () => {
  for (const attempt of [0, 1, 2]) {
    const saga = complete(atSecond(''), attempt, outcome('done', { result: '7' }))
    expect(saga.state).toMatchObject({ phase: 'completed' })
  }
})

test('with a barrier all attempts are one work: whichever is named, the one under way ends', () => {
  for (const attempt of [0, 1, 2])
    expect(complete(atSecond('db1'), attempt).action(1)).toMatchObject({ attempts: 2, isLater: false })
})
