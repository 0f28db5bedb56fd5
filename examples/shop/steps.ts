/**
 * The steps of the services, with what each takes and gives: known to the saga that calls them and to the services that
 * run them.
 */
import { participantSteps, stepType } from '../../src/participant/index.ts'
import type { Order } from './orders.ts'

export const inventory = participantSteps('inventory', {
  reserve: stepType<Order, { reservation: number }>(),
  ship: stepType<Order, { parcel: number }>(),
})
export const payment = participantSteps('payment', {
  charge: stepType<Order, { charge: number }>(),
  'fraud-check': stepType<Order, undefined>(),
})
export const orderDesk = participantSteps('order-desk', {
  confirm: stepType<Order, undefined>(),
  'send-confirmation': stepType<Confirmation, { confirmation: number }>(),
})

/** What is told of an order that was shipped. */
export type Confirmation = Order & { readonly parcel: number }
