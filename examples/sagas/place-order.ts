import { defineSaga, participantSteps, stepType } from '../../src/index.ts'

export type Order = { id: string; sku: string; cents: number }

export const inventory = participantSteps('inventory', {
  reserve: stepType<Order, { reservation: string }>(),
  ship: stepType<{ reservation: string }, { parcel: string }>(),
})
export const payments = participantSteps('payments', {
  charge: stepType<Order, { charge: string }>(),
  'fraud-check': stepType<Order, undefined>(),
})
export const orders = participantSteps('orders', { confirm: stepType<Order, undefined>() })

export const placeOrder = defineSaga({
  name: 'place-order',
  version: 1,
  attributes: (order: Order) => ({ businessKey: order.id, tags: { sku: order.sku } }),
  signals: { approved: undefined },
  timeoutMs: 7 * 24 * 3600 * 1000,
  output: ({ results }) => results('ship') as { parcel: string },
  flow: ({ step, parallel, choice, waitFor, pivot }) => {
    const reserve = step('reserve', { action: inventory.reserve, compensation: true })
    return [
      reserve,
      parallel(
        [step('charge', { action: payments.charge, compensation: true })],
        [step('fraud-check', { action: payments['fraud-check'], readOnly: true })],
      ),
      choice([
        {
          when: ({ input }) => input.cents > 100_000,
          flow: waitFor('approved', { timeoutMs: 24 * 3600 * 1000, onTimeout: 'fail' }),
        },
      ]),
      pivot('confirm', { action: orders.confirm }),
      step('ship', { action: inventory.ship, input: ({ results }) => results(reserve) }),
    ]
  },
})
