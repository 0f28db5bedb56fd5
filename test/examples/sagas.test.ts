/** The example of sagas as a user runs it. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { placeOrder } from '../../examples/sagas/place-order.ts'
import type { Session } from '../../src/index.ts'
import { service } from '../services/require.ts'

await service('postgres')
const example = join(import.meta.dirname, '../../examples/sagas')

test('orders end completed or compensated, and the databases agree with that', async () => {
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [join(example, 'main.ts')])
  expect(stderr).toBe('')
  expect(stdout.split('\n')).toEqual([
    'o-1        completed    parcel of o-1',
    'o-2        compensated  step "reserve": soldOut: sold-out is sold out',
    'o-3        compensated  step "charge": declined: the card is declined',
    'o-4-fraud  compensated  step "fraud-check": fraud: it looks like fraud',
    'o-5        completed    parcel of o-5',
    'reservations: o-1 shipped, o-3 released, o-4-fraud released, o-5 shipped',
    'charged 504200 cents for orders of 504200',
    '',
  ])
})

test('the configuration for a server has the same definition', async () => {
  const { default: options } = await import('../../examples/sagas/escrow.config.ts')
  expect(options.sagas).toEqual([placeOrder])
})

test('a start and what it gives are typed by the definition', () => {
  const start = async (session: Session): Promise<string | undefined> => {
    // @ts-expect-error: cents are a number
    await session.startSaga({ saga: placeOrder, input: { id: 'o', sku: 'book', cents: 'none' } })
    // @ts-expect-error: nothing is missing
    await session.startSaga({ saga: placeOrder, input: { id: 'o' } })
    const { output } = await session.waitForSaga({ id: 'o', saga: placeOrder })
    // @ts-expect-error: it gives a parcel
    expect(output?.letter).toBeUndefined()
    return output?.parcel
  }
  expect(start).toBeTypeOf('function')
})
