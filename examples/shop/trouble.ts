/**
 * The trouble that the shop makes for itself, so that there is something to see. Which orders meet it follows from
 * their ids alone, so that each run and each attempt meets the same.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { hash } from './random.ts'

const slowMs = { min: 200, max: 600 }

/** A seventh of the orders take a few hundred milliseconds at a piece of work, others at each. */
export async function slowly(work: string, orderId: string): Promise<void> {
  const text = `${work} is slow with ${orderId}`
  if (isAmong(text, 150)) await sleep(slowMs.min + (hash(`${text} for`) % (slowMs.max - slowMs.min)))
}

/** Three in a hundred answers are lost after the work was done: it is asked for again. */
export function loseAnswer(work: string, orderId: string): void {
  if (isAmong(`${work} forgets to answer ${orderId}`, 30))
    throw new Error(`the answer about ${orderId} is lost on purpose`)
}

/** At one piece of work in four thousand a service dies by itself: its COMMIT is done, and its answer isn't given. */
export function dies(work: string, orderId: string): boolean {
  return hash(`${work} ends its service at ${orderId}`) % 4_000 === 0
}

function isAmong(text: string, perMille: number): boolean {
  return hash(text) % 1_000 < perMille
}
