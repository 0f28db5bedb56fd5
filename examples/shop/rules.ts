/**
 * Why the shop refuses orders. Each rule looks at one order alone, so that what becomes of an order follows from the
 * input, whatever else happens at the same time.
 */
import { refuse } from '../../src/participant/index.ts'
import { type Order, totalCents } from './orders.ts'
import { hash } from './random.ts'

/** Articles of which there is nothing. */
const soldOut: ReadonlySet<string> = new Set(['ginger-2', 'saffron-5'])
/** What a card bears for one order. */
export const cardLimitCents = 11_000

/** A step that may refuse an order. */
export type CheckingStep = 'reserve' | 'charge' | 'fraud-check'

/** Why a step refuses an order; at most one step refuses it. */
export interface Refused {
  readonly step: CheckingStep
  readonly code: string
  readonly reason: string
}

/** Which step refuses an order, if any does. */
export function refusalOf(order: Order): Refused | undefined {
  if (soldOut.has(order.sku)) return { step: 'reserve', code: 'soldOut', reason: `${order.sku} is sold out` }
  if (totalCents(order) > cardLimitCents) {
    return { step: 'charge', code: 'declined', reason: `the card bears no ${totalCents(order)} cents` }
  }
  // Both stand in one parallel: an order that failed at both would tell whichever came first.
  if (isSuspect(order)) {
    return {
      step: 'fraud-check',
      code: 'fraud',
      reason: `${order.sku} is nothing that ${order.customer} buys`,
    }
  }
  return undefined
}

/** Throws the refusal of an order at this step, if there is one. */
export function refuseWhere(step: CheckingStep, order: Order): void {
  const refused = refusalOf(order)
  if (refused?.step === step) throw refuse(refused.reason, refused.code)
}

/** One order in twenty looks odd. */
function isSuspect({ customer, sku }: Order): boolean {
  return hash(`${customer} never bought ${sku}`) % 20 === 0
}
