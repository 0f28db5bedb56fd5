/**
 * Scalars and enumerations between the protos and the API: 64-bit fields are JavaScript numbers in the API, so anything
 * beyond the safe integers is refused rather than rounded.
 */
import type {
  DeliverResponse,
  DeliveryView,
  Resolution,
  StepRequest,
  StepResponse,
  TransactionKind,
  TransactionStatus,
} from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { CheckBackPolicy } from '../core/message.ts'
import type * as participant from './gen/escrow/v1/participant_pb.ts'
import type * as proto from './gen/escrow/v1/transaction_pb.ts'

const UINT32_MAX = 2 ** 32 - 1

/** A 64-bit field as a number. Throws `invalidArgument` beyond ±(2^53 - 1). */
export function numberOf(field: string, value: bigint): number {
  const number = Number(value)
  if (Number.isSafeInteger(number)) return number
  throw new EscrowError(
    'invalidArgument',
    `${field} ${value} is out of range, allowed is ±${Number.MAX_SAFE_INTEGER}`,
  )
}

/** A number as a 64-bit field. Throws `invalidArgument` for what is no safe integer. */
export function bigintOf(field: string, value: number): bigint {
  return BigInt(checkInt64(field, value))
}

/** Holds a number to what an int64 field carries here. Throws `invalidArgument`. */
export function checkInt64(field: string, value: number): number {
  if (Number.isSafeInteger(value)) return value
  throw new EscrowError(
    'invalidArgument',
    `${field} ${value} is not a whole number within ±${Number.MAX_SAFE_INTEGER}`,
  )
}

/** Holds a number to what a uint32 field carries. Throws `invalidArgument`. */
export function checkUint32(field: string, value: number): number {
  if (value >= 0 && value <= UINT32_MAX && Math.floor(value) === value) return value
  throw new EscrowError('invalidArgument', `${field} ${value} is not a whole number from 0 to ${UINT32_MAX}`)
}

/** The words of an enumeration by their number in the proto; 0 is "not said". */
type Words<Word extends string> = readonly (Word | undefined)[]

const STATUS: Words<TransactionStatus> = [
  undefined,
  'prepared',
  'committed',
  'delivered',
  'rolledBack',
  'parked',
  'running',
  'completed',
  'compensating',
  'compensated',
]
const EXHAUSTED: Words<CheckBackPolicy['onExhausted']> = [undefined, 'park', 'commit', 'rollback']
const DELIVERY: Words<DeliveryView['status']> = [undefined, 'waiting', 'delivered', 'parked', 'skipped']
const KIND: Words<TransactionKind> = [undefined, 'message', 'saga']
const RESOLUTION: Words<Resolution> = ['unknown', 'commit', 'rollback', 'unknown']
const OUTCOME: Words<DeliverResponse['outcome']> = ['unknown', 'delivered', 'failed', 'refused']
const STEP_OPERATION: Words<StepRequest['operation']> = [undefined, 'action', 'compensation']
const STEP_OUTCOME: Words<StepResponse['outcome']> = ['unknown', 'done', 'refused', 'failed', 'later']

/** The number of a status. */
export const statusNumber = (status: TransactionStatus): proto.TransactionStatus =>
  numberOfWord('status', STATUS, status) as proto.TransactionStatus
/** The number of a delivery's status. */
export const deliveryStatusNumber = (status: DeliveryView['status']): proto.DeliveryStatus =>
  numberOfWord('status', DELIVERY, status) as proto.DeliveryStatus
/** The number of a kind; 0 for every kind. */
export const kindNumber = (kind: TransactionKind | undefined): proto.TransactionKind =>
  (kind === undefined ? 0 : numberOfWord('kind', KIND, kind)) as proto.TransactionKind
/** The number of what is asked of a step. */
export const stepOperationNumber = (operation: StepRequest['operation']): participant.StepOperation =>
  numberOfWord('operation', STEP_OPERATION, operation) as participant.StepOperation
/** The number of a step's outcome; 0, not said, for `unknown`. */
export const stepOutcomeNumber = (outcome: StepResponse['outcome']): participant.StepOutcome =>
  Math.max(STEP_OUTCOME.indexOf(outcome), 0) as participant.StepOutcome
/** The number of what happens when check-backs are used up; 0 for the default. */
export const exhaustedNumber = (word: CheckBackPolicy['onExhausted'] | undefined): proto.CheckBackExhausted =>
  (word === undefined ? 0 : numberOfWord('onExhausted', EXHAUSTED, word)) as proto.CheckBackExhausted
/** The number of a resolution; `unknown` is said as such. */
export const resolutionNumber = (resolution: Resolution): proto.Resolution =>
  Math.max(RESOLUTION.lastIndexOf(resolution), 0) as proto.Resolution
/** The number of a delivery's outcome; 0, not said, for `unknown`. */
export const outcomeNumber = (outcome: DeliverResponse['outcome']): participant.DeliverOutcome =>
  Math.max(OUTCOME.indexOf(outcome), 0) as participant.DeliverOutcome

/** The resolution of a number; whatever isn't known is `unknown`, never a commit or a rollback. */
export const resolutionOf = (value: number): Resolution => RESOLUTION[value] ?? 'unknown'
/** The outcome of a number; whatever isn't known is `unknown`. */
export const outcomeOf = (value: number): DeliverResponse['outcome'] => OUTCOME[value] ?? 'unknown'
/** The outcome of a step's number; whatever isn't known is `unknown`. */
export const stepOutcomeOf = (value: number): StepResponse['outcome'] => STEP_OUTCOME[value] ?? 'unknown'
/** What is asked of a step. Throws `invalidArgument` for what isn't known: nothing may be done then. */
export const stepOperationOf = (value: number): StepRequest['operation'] =>
  askedWord('operation', STEP_OPERATION, value)
/** The policy of a number; undefined for the default. Throws `invalidArgument` for one that isn't known. */
export const exhaustedOf = (value: number): CheckBackPolicy['onExhausted'] | undefined =>
  value === 0 ? undefined : askedWord('check_back.on_exhausted', EXHAUSTED, value)
/** A status that a caller asks for. Throws `invalidArgument` for one that isn't known. */
export const askedStatusOf = (value: number): TransactionStatus => askedWord('statuses', STATUS, value)
/** A kind that a caller asks for; undefined for every kind. Throws `invalidArgument` for one that isn't known. */
export const askedKindOf = (value: number): TransactionKind | undefined =>
  value === 0 ? undefined : askedWord('kind', KIND, value)
/** A status that a coordinator answers. Throws `uncertain` for one that isn't known. */
export const statusOf = (value: number): TransactionStatus => answeredWord('status', STATUS, value)
/** A delivery's status that a coordinator answers. Throws `uncertain` for one that isn't known. */
export const deliveryStatusOf = (value: number): DeliveryView['status'] =>
  answeredWord('delivery status', DELIVERY, value)
/** A kind that a coordinator answers. Throws `uncertain` for one that isn't known. */
export const kindOf = (value: number): TransactionKind => answeredWord('kind', KIND, value)

function numberOfWord<Word extends string>(field: string, words: Words<Word>, word: Word): number {
  const value = words.indexOf(word)
  if (value > 0) return value
  throw new EscrowError(
    'invalidArgument',
    `${field} ${JSON.stringify(word)} is none of ${words.slice(1).join(', ')}`,
  )
}

function askedWord<Word extends string>(field: string, words: Words<Word>, value: number): Word {
  const word = words[value]
  if (word !== undefined) return word
  throw new EscrowError('invalidArgument', `${field} ${value} is not one of 1 to ${words.length - 1}`)
}

// A newer coordinator may know words that this version doesn't. The request may well have been done, so it isn't
// reported as refused.
function answeredWord<Word extends string>(field: string, words: Words<Word>, value: number): Word {
  const word = words[value]
  if (word !== undefined) return word
  throw new EscrowError(
    'uncertain',
    `the coordinator answered ${field} ${value}, which this version does not know`,
  )
}
