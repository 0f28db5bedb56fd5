/** Transactions of both kinds, in states that use every part of the layout: what a stored format is held to. */
import { type TransactionKey, transactionKey } from '../../../src/core/ids.ts'
import { defineSaga } from '../../../src/core/saga/define.ts'
import type { TransactionImage } from '../../../src/core/transaction.ts'
import { images } from '../../core/message-fixtures.ts'
import { Driven, outcome } from '../../core/saga-decision/fixtures.ts'

const placeOrder = defineSaga({
  name: 'place-order',
  version: 1,
  signals: { 'address-given': undefined },
  timeoutMs: 86_400_000,
  output: () => ({ isPlaced: true }),
  flow: ({ step, parallel, pivot, waitFor, delay, send }) => [
    step('reserve', { action: 'inventory/reserve', compensation: true }),
    parallel(
      step('charge', { action: 'payments/charge', compensation: true }),
      step('check', { action: 'fraud/check', readOnly: true }),
    ),
    waitFor('address-given', { timeoutMs: 60_000, onTimeout: 'fail' }),
    pivot('confirm', { action: 'orders/confirm' }),
    delay(5_000),
    send('confirmation', { to: 'kafka:orders', body: () => 'placed' }),
  ],
})

const done = outcome('done', { result: '{"reservation":"r1"}' })

/** The images that one transaction went through, as records would tell them. */
export type Story = readonly TransactionImage[]

function storyOf(steps: readonly ((saga: Driven) => unknown)[], id: string): Story {
  const saga = new Driven(placeOrder.program).start({ id: id as never, hash: placeOrder.program.hash })
  const story = [saga.image as TransactionImage]
  for (const step of steps) {
    step(saga)
    story.push(saga.image as TransactionImage)
  }
  return story
}

const withId = (image: TransactionImage | undefined, id: string): TransactionImage =>
  ({ ...image, head: { ...image?.head, id } }) as TransactionImage

/** By name: stories of messages, one image each, and of sagas, in which each image follows from the one before. */
export function stories(): ReadonlyMap<string, Story> {
  const all = new Map<string, Story>()
  for (const [name, image] of Object.entries(images))
    if (image !== undefined) all.set(`message-${name}`, [withId(image, `message-${name}`)])
  const signal = { type: 'signalSaga', signal: 'address-given', payload: '"here"', signalId: 's1' } as const
  const toPivot = [
    (saga: Driven) => saga.answer(1, done),
    (saga: Driven) => saga.do(signal),
    (saga: Driven) => saga.answer(3, outcome('done')),
    (saga: Driven) => saga.answer(2, outcome('later')),
    (saga: Driven) => saga.do({ type: 'completeStep', executionId: 'e1.2', attempt: 0, outcome: done }),
  ]
  all.set('saga-waiting', storyOf(toPivot.slice(0, 1), 'saga-waiting'))
  all.set('saga-later', storyOf(toPivot.slice(0, 4), 'saga-later'))
  all.set('saga-past-pivot', storyOf([...toPivot, (saga) => saga.answer(4, done)], 'saga-past-pivot'))
  const unwinding = [
    toPivot[0]!,
    (saga: Driven) => saga.answer(2, outcome('refused')),
    (saga: Driven) => saga.answer(3, done),
  ]
  all.set('saga-compensating', storyOf(unwinding, 'saga-compensating'))
  const undo = (saga: Driven): unknown => saga.answer(1, outcome('done'), 'compensation')
  all.set('saga-compensated', storyOf([...unwinding, undo], 'saga-compensated'))
  return all
}

/** The key of a story's transaction. */
export function keyOf(story: Story): TransactionKey {
  const { namespace, id } = (story[0] as TransactionImage).head
  return transactionKey(namespace, id)
}
