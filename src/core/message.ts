/**
 * The life of a half message: the state table, and `decide`, which answers every command in every state.
 *
 * | command \ state    | none     | prepared            | undecided (parked)  | committed                  | rolledBack |
 * |--------------------|----------|---------------------|---------------------|----------------------------|------------|
 * | prepareMessage     | prepared | same answer, or `idReused` if the content differs (all states)                 |||
 * | commitMessage      | notFound | committed           | committed           | same answer                | conflict   |
 * | rollbackMessage    | notFound | rolledBack          | rolledBack          | conflict                   | same answer|
 * | requestCheckBack   | notFound | CheckBack / undecided | same answer         | same answer                | same answer|
 * | checkBackDue       | nothing  | CheckBack / undecided | nothing           | nothing                    | nothing    |
 * | answerCheckBack    | nothing  | committed / rolledBack / prepared / undecided | committed / rolledBack, else nothing | nothing | nothing |
 * | dispatchDelivery   | nothing  | nothing             | nothing             | Publication / parked       | nothing    |
 * | answerDelivery     | nothing  | nothing             | nothing             | delivered / waiting / parked | nothing  |
 * | retryExecution     | notFound | notParked           | prepared + CheckBack | waiting                   | notParked  |
 * | skipExecution      | notFound | notParked           | unsupported         | skipped                    | notParked  |
 * | compensateExecution | notFound | unsupported (all states)                                                      ||||
 *
 * "none" answers nothing to what is the engine's own, for it may come too late. A committed delivery that is retried is
 * dispatched by a `dispatchDelivery` of its own; retryExecution and skipExecution answer `notParked` to one that isn't
 * parked, and `unknownExecution` to an id that isn't here.
 *
 * `committed` holds one delivery a message; each is waiting, delivered, parked or skipped. The transaction's status
 * follows: parked if any delivery is, delivered when none is waiting or parked.
 */
import type { MessageStatus } from './api.ts'
import type { Backoff } from './backoff.ts'
import type { HalfMessage, TraceContext } from './envelope.ts'
import type { ExecutionId, Namespace, TransactionId } from './ids.ts'

/** When a checker is asked, and for how long. Pauses are log time. */
export interface CheckBackPolicy extends Backoff {
  readonly checksMax: number
  readonly onExhausted: 'park' | 'commit' | 'rollback'
  readonly unresolvedMsMax: number
}

/** How deliveries are repeated. Pauses are log time. */
export interface RetryPolicy extends Backoff {
  readonly attemptsMax: number
  readonly attemptTimeoutMs: number
  /** Wall-clock time from an operation's first dispatch, after which only an operator may send it again. */
  readonly lastDispatchMsMax: number
}

/** What a transaction is from its prepare to its end. Only `messages` may change: once, when bodies are fixed at commit. */
export interface MessageHead {
  readonly kind: 'message'
  readonly namespace: Namespace
  readonly id: TransactionId
  /** The local transaction's execution. */
  readonly executionId: ExecutionId
  readonly checker: string
  /** Empty for none. */
  readonly orderingKey: string
  readonly messages: readonly HalfMessage[]
  readonly checkBack: CheckBackPolicy
  readonly retry: RetryPolicy
  /** The database of the barrier row; empty without a barrier. */
  readonly databaseId: string
  readonly trace: TraceContext
  /** Of what the caller gave: tells a repeated prepare from another one under the same id. */
  readonly contentHash: string
  /** Wall clock. */
  readonly preparedAtMs: number
  /** Log time. */
  readonly preparedAtLogMs: number
}

/** Who settled a half message: its service or an operator, its checker, or what the caller chose for when check-backs are used up. */
export type SettledBy = 'caller' | 'checkBack' | 'policy'

/** One delivery of one message. */
export interface MessageDelivery {
  readonly status: 'waiting' | 'delivered' | 'parked' | 'skipped'
  /** Attempts that failed, or whose outcome nobody told. */
  readonly attempts: number
  /** Log time of the next attempt while it waits; a delayed message has none until its time has come. */
  readonly nextAttemptAtMs: number
  /** Wall clock; 0 before the first dispatch. */
  readonly firstDispatchAtMs: number
  /** Wall clock: past it only an operator may send it again. */
  readonly lastDispatchAtMs: number
  /** The participant's database that the first dispatch went to; empty without a barrier. */
  readonly databaseId: string
  readonly error: string
}

/** Where a half message stands: see the table above. */
export type MessageState =
  | {
      readonly phase: 'prepared'
      readonly checks: number
      /** Check-backs that found nobody to ask: they lengthen the pause, and count for nothing else. */
      readonly misses: number
      /** Log time. */
      readonly nextCheckAtMs: number
      /** Log time: past it the half message is parked. */
      readonly unresolvedAtMs: number
      /** Wall clock: past it the barrier may have forgotten, so only an operator may have it asked again. */
      readonly lastCheckAtMs: number
    }
  | { readonly phase: 'undecided'; readonly checks: number; readonly reason: string }
  | {
      readonly phase: 'committed'
      readonly checks: number
      readonly settledBy: SettledBy
      /** Wall clock. */
      readonly settledAtMs: number
      /** Place in the order of commits of its log. */
      readonly order: number
      readonly deliveries: readonly MessageDelivery[]
      /** Wall clock; 0 while anything is waiting or parked. */
      readonly finishedAtMs: number
    }
  | {
      readonly phase: 'rolledBack'
      readonly checks: number
      readonly settledBy: SettledBy
      /** Wall clock. */
      readonly settledAtMs: number
      readonly reason: string
    }

/** A transaction of kind `message`, as it is after one record. Never changed in place. */
export interface MessageImage {
  readonly head: MessageHead
  readonly state: MessageState
}

/** The phases by name. */
export type Prepared = Extract<MessageState, { phase: 'prepared' }>
export type Undecided = Extract<MessageState, { phase: 'undecided' }>
export type Committed = Extract<MessageState, { phase: 'committed' }>

/** The stable id under which a consumer sees message `index`. */
export function deliveryExecutionId(head: MessageHead, index: number): ExecutionId {
  return `${head.executionId}.${index}` as ExecutionId
}

/** Whether a delivery stands in the order of its key: delayed ones have left it. */
export function isOrdered(head: MessageHead, state: Committed, index: number): boolean {
  const message = head.messages[index] as HalfMessage
  return head.orderingKey !== '' && message.deliverAtMs <= state.settledAtMs
}

/** The transaction's status, as everybody sees it. */
export function statusOf({ state }: MessageImage): MessageStatus {
  switch (state.phase) {
    case 'prepared':
      return 'prepared'
    case 'undecided':
      return 'parked'
    case 'rolledBack':
      return 'rolledBack'
    case 'committed':
      if (state.finishedAtMs > 0) return 'delivered'
      return state.deliveries.some((delivery) => delivery.status === 'parked') ? 'parked' : 'committed'
  }
}

/** When the transaction ended, by the wall clock; 0 while it lives. */
export function finishedAtMs({ state }: MessageImage): number {
  if (state.phase === 'rolledBack') return state.settledAtMs
  return state.phase === 'committed' ? state.finishedAtMs : 0
}

/** Something still to be done about a transaction, and when. `hold`: a parked delivery that keeps its key back. */
export type Outstanding =
  | { readonly what: 'checkBack'; readonly clock: 'log'; readonly atMs: number }
  | {
      readonly what: 'delivery'
      readonly index: number
      readonly clock: 'log' | 'wall'
      readonly atMs: number
    }
  | { readonly what: 'hold'; readonly index: number }

/** What is still to be done: all that a restart needs to know of an image. */
export function outstanding({ head, state }: MessageImage): readonly Outstanding[] {
  if (state.phase === 'prepared') {
    return [{ what: 'checkBack', clock: 'log', atMs: Math.min(state.nextCheckAtMs, state.unresolvedAtMs) }]
  }
  if (state.phase !== 'committed' || state.finishedAtMs > 0) return []
  const all: Outstanding[] = []
  state.deliveries.forEach((delivery, index) => {
    if (delivery.status === 'waiting') {
      const { deliverAtMs } = head.messages[index] as HalfMessage
      // One that was postponed after its time had come has a time of its own, in log time.
      const isDelayed =
        delivery.firstDispatchAtMs === 0 && delivery.nextAttemptAtMs === 0 && deliverAtMs > state.settledAtMs
      all.push(
        isDelayed
          ? { what: 'delivery', index, clock: 'wall', atMs: deliverAtMs }
          : { what: 'delivery', index, clock: 'log', atMs: delivery.nextAttemptAtMs },
      )
    } else if (delivery.status === 'parked' && isOrdered(head, state, index)) {
      all.push({ what: 'hold', index })
    }
  })
  return all
}
