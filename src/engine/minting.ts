import {
  type ExecutionId,
  mintTransactionId,
  orderingKeyRouting,
  routingsOf,
  type TransactionId,
} from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { OpenedSession } from './coordination.ts'

const ROUTINGS = routingsOf(8)

/** Opens a session, which mints its own ids: unique for ever. */
export function openSession(runtime: Runtime): OpenedSession {
  const unique = Buffer.from(runtime.randomBytes(8)).readBigUInt64BE().toString(36)
  return { session: `${runtime.now().toString(36)}-${unique}`, routings: ROUTINGS }
}

/** Mints ids: of transactions for callers that have none, and of executions for all. */
export class Minting {
  readonly #session: string
  readonly #executionPrefix: string
  #transactions = 0
  #executions = 0

  /** `claim` is unique for ever: no two claims of one log have the same epoch. */
  constructor(runtime: Runtime, claim: { readonly storeId: string; readonly epoch: number }) {
    this.#session = openSession(runtime).session
    this.#executionPrefix = `${claim.storeId}-${claim.epoch.toString(36)}`
  }

  /** The id of a transaction; `orderingKey` is empty for none. Throws `invalidArgument`. */
  transaction(orderingKey: string): TransactionId {
    this.#transactions += 1
    const routing =
      orderingKey === ''
        ? (ROUTINGS[this.#transactions % ROUTINGS.length] as string)
        : orderingKeyRouting(orderingKey)
    return mintTransactionId(routing, this.#session, this.#transactions)
  }

  execution(): ExecutionId {
    this.#executions += 1
    return `${this.#executionPrefix}-${this.#executions.toString(36)}` as ExecutionId
  }
}
