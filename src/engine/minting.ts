import {
  type ExecutionId,
  mintTransactionId,
  orderingKeyRouting,
  routingsOf,
  SLOTS,
  slotOf,
  type TransactionId,
} from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { OpenedSession } from './coordination.ts'

/** Routing parts that a session is given, at least: where it has more of them, its load is spread more evenly. */
const ROUTINGS = 8
const ANYWHERE = routingsOf(ROUTINGS)
/** Enough that each of a thousand logs has some. */
const CANDIDATES_MAX = 16_384

/** Routing parts whose slots stand in these logs of so many, as many for each; of any where there are none. */
export function routingsIn(logs: number, ours: readonly number[]): readonly string[] {
  if (logs === 1 || ours.length === 0) return ANYWHERE
  const each = Math.ceil(ROUTINGS / ours.length)
  const missing = new Map(ours.map((log) => [log, each]))
  const found: string[] = []
  for (let tag = 0; tag < CANDIDATES_MAX && missing.size > 0; tag++) {
    const routing = tag.toString(36)
    const log = Math.floor((slotOf(routing) * logs) / SLOTS)
    const left = missing.get(log)
    if (left === undefined) continue
    found.push(routing)
    if (left === 1) missing.delete(log)
    else missing.set(log, left - 1)
  }
  return found
}

/** Opens a session, which mints its own ids: unique for ever. */
export function openSession(runtime: Runtime, routings: readonly string[]): OpenedSession {
  const unique = Buffer.from(runtime.randomBytes(8)).readBigUInt64BE().toString(36)
  return { session: `${runtime.now().toString(36)}-${unique}`, routings }
}

/** Mints ids of transactions for callers that have none. */
export class TransactionMinting {
  readonly #session: string
  #count = 0

  constructor(runtime: Runtime) {
    this.#session = openSession(runtime, []).session
  }

  /** `orderingKey` is empty for none; then one of the routing parts stands in it. Throws `invalidArgument`. */
  next(orderingKey: string, routings: readonly string[]): TransactionId {
    this.#count += 1
    const routing =
      orderingKey === ''
        ? (routings[this.#count % routings.length] as string)
        : orderingKeyRouting(orderingKey)
    return mintTransactionId(routing, this.#session, this.#count)
  }
}

/** Mints ids of executions, by a claim: no two claims of one log have the same epoch. */
export class ExecutionMinting {
  readonly #prefix: string
  #count = 0

  /** `log` is left out where the store has but one. */
  constructor({
    storeId,
    epoch,
    log,
  }: {
    readonly storeId: string
    readonly epoch: number
    readonly log?: number
  }) {
    this.#prefix = `${storeId}-${epoch.toString(36)}${log === undefined ? '' : `-${log.toString(36)}`}`
  }

  next(): ExecutionId {
    this.#count += 1
    return `${this.#prefix}-${this.#count.toString(36)}` as ExecutionId
  }
}
