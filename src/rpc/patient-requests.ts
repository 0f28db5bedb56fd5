import type { Operation, OperationRequest, Operations } from '../core/api.ts'
import { fullJitterMs } from '../core/backoff.ts'
import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { Coordination } from '../engine/coordination.ts'

const BACKOFF = { delayMs: 50, delayMsMax: 1_000 }

/** What such requests need. */
export interface PatientRequestsOptions {
  readonly coordination: Pick<Coordination, 'request'>
  readonly runtime: Pick<Runtime, 'now' | 'random' | 'setTimer'>
  /** Requests that may wait at once; others are told `notOwner` at once. */
  readonly waitingMax: number
  /** From when on nothing waits. */
  isStopping(): boolean
}

/**
 * Requests of callers that have no session, which would try again by itself: while a log moves from node to node they
 * only take longer. Nothing was done where the answer is `notOwner`, so that nothing is done twice.
 */
export class PatientRequests {
  readonly #options: PatientRequestsOptions
  #waiting = 0

  constructor(options: PatientRequestsOptions) {
    this.#options = options
  }

  /** Makes a request; `deadlineMs` is on the wall clock. Rejects with what it ends in: `notOwner` only at the deadline, or where too many wait. */
  async request<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    deadlineMs: number,
  ): Promise<Operations[Op]['response']> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#once(op, request, deadlineMs)
      } catch (thrown) {
        const error = EscrowError.from(thrown)
        if (error.code !== 'notOwner' || !(await this.#hasPaused(attempt, deadlineMs))) throw error
      }
    }
  }

  #once<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    deadlineMs: number,
  ): Promise<Operations[Op]['response']> {
    return new Promise((resolve, reject) => {
      this.#options.coordination.request(
        { op, request } as OperationRequest,
        (error, response) =>
          error === undefined ? resolve(response as Operations[Op]['response']) : reject(error),
        { deadlineMs, fresh: false },
      )
    })
  }

  /** Resolves after the pause before the next attempt; false where there is to be none. */
  async #hasPaused(attempt: number, deadlineMs: number): Promise<boolean> {
    const { runtime, waitingMax, isStopping } = this.#options
    const delayMs = 1 + fullJitterMs(BACKOFF, attempt, runtime.random())
    if (this.#waiting >= waitingMax || isStopping() || runtime.now() + delayMs >= deadlineMs) return false
    this.#waiting++
    await new Promise<void>((resolve) => runtime.setTimer(resolve, delayMs))
    this.#waiting--
    return !isStopping()
  }
}
