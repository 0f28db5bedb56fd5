import { EscrowError } from '../core/errors.ts'
import { type Status, type TransactionImage, transactionStatusOf } from '../core/transaction.ts'
import type { Entry, Question } from './entry.ts'

const UNDER_WAY: ReadonlySet<Status> = new Set<Status>(['prepared', 'committed', 'running', 'compensating'])

/** Whether a `wait` is over: the transaction ended, or is parked. */
export function hasEnded(image: TransactionImage): boolean {
  const status = transactionStatusOf(image)
  return !UNDER_WAY.has(status)
}

/** Those who wait for the end of a transaction. */
export class Waiters {
  readonly #waitersMax: number
  readonly #awaited = new Set<Entry>()
  #count = 0

  constructor(waitersMax: number) {
    this.#waitersMax = waitersMax
  }

  /** Returns `overloaded` where no more may wait. */
  add(entry: Entry, question: Question): EscrowError | undefined {
    if (this.#count >= this.#waitersMax) {
      const details = { limit: 'waitersMax', max: String(this.#waitersMax) }
      return new EscrowError('overloaded', `waitersMax of ${this.#waitersMax} is reached`, { details })
    }
    this.#count += 1
    this.#awaited.add(entry)
    if (entry.waiters === undefined) entry.waiters = [question]
    else entry.waiters.push(question)
    return undefined
  }

  /** Those who wait for this one, if it has ended. */
  takeEnded(entry: Entry): readonly Question[] {
    if (entry.waiters === undefined || !hasEnded(entry.image)) return []
    const questions = entry.waiters
    entry.waiters = undefined
    this.#awaited.delete(entry)
    this.#count -= questions.length
    return questions
  }

  /** Those who waited in vain; `released` is told of each entry that nobody waits for any more. */
  tellTheLate(monotonicMs: number, released: (entry: Entry) => void): void {
    for (const entry of this.#awaited) {
      const late = entry.waiters?.filter(({ deadlineMs }) => deadlineMs <= monotonicMs) ?? []
      if (late.length === 0) continue
      const inTime = entry.waiters?.filter(({ deadlineMs }) => deadlineMs > monotonicMs) ?? []
      this.#count -= late.length
      entry.waiters = inTime.length > 0 ? inTime : undefined
      if (inTime.length === 0) {
        this.#awaited.delete(entry)
        released(entry)
      }
      const error = new EscrowError(
        'deadlineExceeded',
        `the transaction is still ${transactionStatusOf(entry.image)}`,
      )
      for (const question of late) question.reply(error)
    }
  }

  stop(error: EscrowError): void {
    for (const entry of this.#awaited) for (const question of entry.waiters ?? []) question.reply(error)
    this.#awaited.clear()
  }
}
