import type { EscrowError } from '../core/errors.ts'
import type { Appender } from './appender.ts'
import type { Batches } from './batch.ts'
import type { Entry, Question } from './entry.ts'
import { responseOf } from './views.ts'
import { hasEnded, Waiters } from './waiters.ts'

/** What answers need of their log. */
export interface AnswersOptions {
  readonly batches: Batches
  readonly appender: Appender
  readonly waitersMax: number
  /** Wall time less log time. */
  readonly outagesMs: () => number
  /** Why there is no transaction of this id. */
  readonly notFound: (id: string) => EscrowError
}

/** Gives the answers of one log: each leaves with the batch of what it tells of. */
export class Answers {
  readonly #options: AnswersOptions
  readonly #waiters: Waiters

  constructor(options: AnswersOptions) {
    this.#options = options
    this.#waiters = new Waiters(options.waitersMax)
  }

  /** Answers with an error. */
  refuse(question: Question, error: EscrowError): void {
    const { batches, appender } = this.#options
    question.error = error
    batches.release(question)
    appender.plan()
  }

  /** Answers with what the transaction is now. */
  respond(entry: Entry, question: Question): void {
    const { batches, appender, outagesMs } = this.#options
    question.response = responseOf(question.op, entry.image, outagesMs())
    batches.release(question)
    appender.plan()
  }

  /** Answers a read: a `wait` once it has ended. */
  read(entry: Entry, question: Question): void {
    if (question.op !== 'wait' || hasEnded(entry.image)) return this.respond(entry, question)
    const refused = this.#waiters.add(entry, question)
    if (refused !== undefined) this.refuse(question, refused)
  }

  /** Answers that there is no such transaction. */
  notFound(question: Question): void {
    this.refuse(question, this.#options.notFound(question.id))
  }

  /** Answers those who wait for the end of this one, if it has come. */
  decided(entry: Entry): void {
    for (const waiter of this.#waiters.takeEnded(entry)) this.respond(entry, waiter)
  }

  /** Answers those who waited in vain; `released` is told of each entry that nobody waits for any more. */
  tellTheLate(monotonicMs: number, released: (entry: Entry) => void): void {
    this.#waiters.tellTheLate(monotonicMs, released)
  }

  /** Answers all who wait, at once. */
  stop(error: EscrowError): void {
    this.#waiters.stop(error)
  }
}
