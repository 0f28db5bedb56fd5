/**
 * The way of an order through the services. The coordinator runs it, and the order desk starts it.
 *
 *   npm run escrow -- saga diagram place-order --config examples/shop/escrow.config.ts
 */
import { defineSaga, type StepSettings, untilDone } from '../../src/saga.ts'
import type { Order } from './orders.ts'
import { inventory, orderDesk, payment } from './steps.ts'

/**
 * A service that is down, or slow, or whose answer is lost, says nothing about an order: it is asked again until it
 * answers, so that no kill changes what becomes of an order. Only a refusal does.
 */
const patient = {
  retry: { ...untilDone, delayMs: 100, delayMsMax: 2_000 },
  attemptTimeoutMs: 10_000,
} satisfies StepSettings

export const placeOrder = defineSaga({
  name: 'place-order',
  version: 1,
  attributes: (order: Order) => ({ businessKey: order.customer, tags: { sku: order.sku } }),
  output: ({ results }) => ({
    ...(results('ship') as { parcel: number }),
    ...(results('send-confirmation') as { confirmation: number }),
  }),
  flow: ({ step, parallel, pivot }) => {
    const ship = step('ship', { ...patient, action: inventory.ship })
    return [
      step('reserve', { ...patient, action: inventory.reserve, compensation: true }),
      parallel(
        [step('charge', { ...patient, action: payment.charge, compensation: true })],
        [step('fraud-check', { ...patient, action: payment['fraud-check'], readOnly: true })],
      ),
      pivot('confirm', { ...patient, action: orderDesk.confirm }),
      ship,
      step('send-confirmation', {
        ...patient,
        action: orderDesk['send-confirmation'],
        input: ({ input, results }) => ({ ...input, parcel: results(ship).parcel }),
      }),
    ]
  },
})
