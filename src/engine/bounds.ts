import { EscrowError } from '../core/errors.ts'
import type { TransactionCommand } from '../core/transaction.ts'

/** What may be bounded about a log, beside what is told to clients. */
export interface LogBounds {
  /** Transactions in memory. */
  readonly entriesMax: number
  /** Deliveries in the queues of their keys, which can't leave memory. */
  readonly queuedMax: number
  readonly heldMax: number
  readonly missedMax: number
  readonly waitersMax: number
  readonly checkpointIntervalMs: number
  /** Rows of one part of a checkpoint: all at once they would hold up the log, and stay in memory for longer. */
  readonly checkpointRowsMax: number
  readonly checkBackTimeoutMs: number
  /**
   * For how long an append, or a look at the fence, proves that this node owns the log, from its beginning: past it somebody
   * else may have taken over, as while the machine slept, and the fence is looked at before anything leaves.
   */
  readonly provenMsMax: number
}

/** The bounds where nothing else is said. */
export const DEFAULT_BOUNDS: LogBounds = {
  entriesMax: 500_000,
  queuedMax: 100_000,
  heldMax: 10_000,
  missedMax: 10_000,
  waitersMax: 100_000,
  checkpointIntervalMs: 1_000,
  checkpointRowsMax: 4_096,
  checkBackTimeoutMs: 10_000,
  provenMsMax: 2_500,
}

/** The bytes that may wait for their append; beyond, new work is refused. */
const WAITING_BYTES_MAX = 64 << 20
/** The questions that may wait for the store at once, decided or not. */
const QUESTIONS_MAX = 100_000

/** How much of a log's room is taken. */
export interface Load {
  readonly waitingBytes: number
  readonly questions: number
  readonly entries: number
  readonly queued: number
}

/** Why a command is not taken at this moment; undefined if it is. No command is a read. */
export function overload(
  bounds: LogBounds,
  command: TransactionCommand | undefined,
  load: Load,
): EscrowError | undefined {
  if (load.waitingBytes > WAITING_BYTES_MAX) {
    return overloaded('too much waits for the store', 'WAITING_BYTES_MAX', WAITING_BYTES_MAX)
  }
  if (load.questions >= QUESTIONS_MAX) {
    return overloaded('too many questions wait for the store', 'QUESTIONS_MAX', QUESTIONS_MAX)
  }
  if (command?.type !== 'prepareMessage' && command?.type !== 'startSaga') return undefined
  if (load.entries >= bounds.entriesMax) {
    return overloaded('too many transactions in memory', 'entriesMax', bounds.entriesMax)
  }
  if (
    command.type === 'prepareMessage' &&
    command.head.orderingKey !== '' &&
    load.queued >= bounds.queuedMax
  ) {
    return overloaded('too many deliveries wait behind others of their key', 'queuedMax', bounds.queuedMax)
  }
  return undefined
}

function overloaded(what: string, limit: string, max: number): EscrowError {
  const details = { limit, max: String(max) }
  return new EscrowError('overloaded', `${what}: ${limit} of ${max} is reached`, { details })
}
