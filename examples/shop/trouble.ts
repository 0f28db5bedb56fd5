/**
 * The trouble that the shop makes for itself, so that there is something to see. Which orders meet it follows from
 * their ids alone, so that each run and each attempt meets the same.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { hash } from './random.ts'

const slowMs = { min: 200, max: 600 }

/** A fifth of the orders take a few hundred milliseconds, others at each service. */
export async function slowly(service: string, orderId: string): Promise<void> {
  const text = `${service} is slow with ${orderId}`
  if (isAmong(text, 200)) await sleep(slowMs.min + (hash(`${text} for`) % (slowMs.max - slowMs.min)))
}

/** Loses an answer after the work is done: three in a hundred orders, at the first attempt. The message comes again. */
export function loseAnswer(service: string, message: { readonly attempt: number }, orderId: string): void {
  if (message.attempt === 1 && isAmong(`${service} forgets to answer ${orderId}`, 30)) {
    throw new Error(`the answer about ${orderId} is lost on purpose`)
  }
}

/** Two in a hundred orders are placed by an order desk that can't tell the coordinator so: the check-back does. */
export function losesItsWord(orderId: string): boolean {
  return isAmong(`the order desk loses its word about ${orderId}`, 20)
}

function isAmong(text: string, perMille: number): boolean {
  return hash(text) % 1_000 < perMille
}
