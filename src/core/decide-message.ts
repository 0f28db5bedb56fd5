import type { CheckBackResponse, DeliverResponse, FixedBody } from './api.ts'
import { boundMs, fullJitterMs } from './backoff.ts'
import type { HalfMessage } from './envelope.ts'
import { EscrowError, unreachable } from './errors.ts'
import type { ExecutionId } from './ids.ts'
import {
  type Committed,
  deliveryExecutionId,
  type MessageDelivery,
  type MessageHead,
  type MessageImage,
  type MessageState,
  type Prepared,
  type SettledBy,
  statusOf,
  type Undecided,
} from './message.ts'

/** What can be asked of a half message. `executionId` names what an operator means. */
export type MessageCommand =
  | { readonly type: 'prepareMessage'; readonly head: MessageHead }
  | { readonly type: 'commitMessage'; readonly by: SettledBy; readonly bodies: readonly FixedBody[] }
  | { readonly type: 'rollbackMessage'; readonly by: SettledBy; readonly reason: string }
  | { readonly type: 'requestCheckBack' }
  | { readonly type: 'checkBackDue' }
  | { readonly type: 'answerCheckBack'; readonly outcome: CheckBackResponse | NobodyAsked }
  | { readonly type: 'dispatchDelivery'; readonly index: number }
  | {
      readonly type: 'answerDelivery'
      readonly index: number
      readonly attempt: number
      readonly outcome: DeliverResponse | NobodyAsked
    }
  | {
      readonly type: 'retryExecution'
      readonly executionId: string
      readonly acceptPossibleDuplicate: boolean
    }
  | { readonly type: 'skipExecution'; readonly executionId: string }
  | { readonly type: 'compensateExecution'; readonly executionId: string }

/** Nobody was there: no attempt, and no check. */
export interface NobodyAsked {
  readonly outcome: 'noSession'
  readonly error: string
}

/** What is to leave once the next image is durable. */
export type MessageEffect =
  | { readonly type: 'Publication'; readonly index: number; readonly attempt: number }
  | { readonly type: 'CheckBack'; readonly attempt: number }

/** What a decision may know of the world, at the moment of deciding. */
export interface Moment {
  /** Wall clock, never going back within a log. */
  readonly wallMs: number
  /** Log time: stands still while nobody runs the log. */
  readonly logMs: number
  /** The place of this decision in the order of its log. */
  readonly order: number
  /** In [0, 1). */
  random(): number
  /** Who would take delivery `index` of this image now; undefined when nobody would, or its key is held back. */
  route(image: MessageImage, index: number): { readonly databaseId: string } | undefined
}

/** What is to be done. No `next`: the image stays as it is. With `refused` nothing else is set. */
export interface Decision {
  readonly next?: MessageImage
  readonly effects: readonly MessageEffect[]
  readonly refused?: EscrowError
}

const NOTHING: Decision = { effects: [] }
const ERROR_CHARACTERS_MAX = 1_024

/** Decides a command on an image, or on none. Pure but for what `moment` tells; total: every state answers every command. */
export function decideMessage(
  image: MessageImage | undefined,
  command: MessageCommand,
  moment: Moment,
): Decision {
  if (command.type === 'prepareMessage') return prepare(image, command.head)
  if (image === undefined) return isQuestion(command) ? refuse('notFound', 'no such transaction') : NOTHING
  switch (command.type) {
    case 'commitMessage':
      return commit(image, command.by, command.bodies, moment)
    case 'rollbackMessage':
      return rollback(image, command.by, command.reason, moment)
    case 'requestCheckBack':
      return image.state.phase === 'prepared' ? checkBackDue(image, image.state, moment) : NOTHING
    case 'checkBackDue':
      return image.state.phase === 'prepared' ? checkBackDue(image, image.state, moment) : NOTHING
    case 'answerCheckBack':
      return answerCheckBack(image, command.outcome, moment)
    case 'dispatchDelivery':
      return dispatchDelivery(image, command.index, moment)
    case 'answerDelivery':
      return answerDelivery(image, command, moment)
    case 'retryExecution':
      return retry(image, command.executionId as ExecutionId, command.acceptPossibleDuplicate, moment)
    case 'skipExecution':
      return skip(image, command.executionId as ExecutionId, moment)
    case 'compensateExecution':
      return refuse(
        'unsupported',
        'a transaction of kind message has no compensations: retry, skip, commit or rollback it',
      )
    default:
      return unreachable(command)
  }
}

/** Commands that somebody waits for an answer to; the others are the engine's own, and may come too late. */
function isQuestion(command: MessageCommand): boolean {
  switch (command.type) {
    case 'checkBackDue':
    case 'answerCheckBack':
    case 'dispatchDelivery':
    case 'answerDelivery':
      return false
    default:
      return true
  }
}

function refuse(code: EscrowError['code'], message: string): Decision {
  return { effects: [], refused: new EscrowError(code, message) }
}

function prepare(image: MessageImage | undefined, head: MessageHead): Decision {
  if (image !== undefined) {
    if (image.head.contentHash === head.contentHash) return NOTHING
    return refuse('idReused', `id ${JSON.stringify(head.id)} belongs to a transaction with other content`)
  }
  const state: Prepared = {
    phase: 'prepared',
    checks: 0,
    misses: 0,
    nextCheckAtMs: head.preparedAtLogMs + head.checkBack.delayMs,
    unresolvedAtMs: head.preparedAtLogMs + head.checkBack.unresolvedMsMax,
    lastCheckAtMs: head.preparedAtMs + head.retry.lastDispatchMsMax,
  }
  return { next: { head, state }, effects: [] }
}

function commit(image: MessageImage, by: SettledBy, bodies: readonly FixedBody[], moment: Moment): Decision {
  const { head, state } = image
  if (state.phase === 'rolledBack') return conflict(image, 'rolled back')
  const fixed = fixBodies(head, bodies, state.phase === 'committed')
  if (fixed instanceof EscrowError) return { effects: [], refused: fixed }
  return state.phase === 'committed' ? NOTHING : committed(fixed, state, by, moment)
}

function committed(
  head: MessageHead,
  from: Prepared | Undecided,
  settledBy: SettledBy,
  moment: Moment,
): Decision {
  const { wallMs, order } = moment
  const waiting: MessageDelivery = {
    status: 'waiting',
    attempts: 0,
    nextAttemptAtMs: moment.logMs,
    firstDispatchAtMs: 0,
    lastDispatchAtMs: wallMs + head.retry.lastDispatchMsMax,
    databaseId: '',
    error: '',
  }
  const undispatched: Committed = {
    phase: 'committed',
    checks: from.checks,
    settledBy,
    settledAtMs: wallMs,
    order,
    deliveries: head.messages.map(({ deliverAtMs }) =>
      deliverAtMs > wallMs
        ? { ...waiting, nextAttemptAtMs: 0, lastDispatchAtMs: deliverAtMs + head.retry.lastDispatchMsMax }
        : waiting,
    ),
    finishedAtMs: 0,
  }
  // The first dispatch goes into the same record wherever somebody is there to take it: one append less a message.
  const effects: MessageEffect[] = []
  const imageBefore = { head, state: undispatched }
  const deliveries = undispatched.deliveries.map((delivery, index) => {
    if ((head.messages[index] as HalfMessage).deliverAtMs > wallMs) return delivery
    const route = moment.route(imageBefore, index)
    if (route === undefined) return delivery
    effects.push({ type: 'Publication', index, attempt: 1 })
    return { ...delivery, firstDispatchAtMs: wallMs, databaseId: route.databaseId }
  })
  return { next: { head, state: { ...undispatched, deliveries } }, effects }
}

/** The head with every body fixed; an error if one is missing, or differs from what it was fixed to. */
function fixBodies(
  head: MessageHead,
  bodies: readonly FixedBody[],
  settled: boolean,
): MessageHead | EscrowError {
  const given = new Map<number, Uint8Array>()
  for (const { index, body } of bodies) {
    const message = head.messages[index]
    if (message === undefined)
      return new EscrowError('invalidArgument', `bodies: there is no message ${index}`)
    // A finished image is stored without its bodies: nothing is left to compare with.
    if (message.body !== undefined && Buffer.compare(message.body, body) !== 0) {
      return new EscrowError(
        'resolutionConflict',
        `the body of message ${index} is fixed already, and differs`,
      )
    }
    given.set(index, body)
  }
  if (settled) return head
  if (head.messages.every(({ body }) => body !== undefined)) return head
  const missing = head.messages.findIndex(({ body }, index) => body === undefined && !given.has(index))
  if (missing >= 0)
    return new EscrowError('bodiesMissing', `the body of message ${missing} is still to be fixed`)
  return {
    ...head,
    messages: head.messages.map((message, index) => ({ ...message, body: message.body ?? given.get(index) })),
  }
}

function rollback(image: MessageImage, settledBy: SettledBy, reason: string, moment: Moment): Decision {
  const { head, state } = image
  if (state.phase === 'rolledBack') return NOTHING
  if (state.phase === 'committed') return conflict(image, 'committed')
  const next: MessageState = {
    phase: 'rolledBack',
    checks: state.checks,
    settledBy,
    settledAtMs: moment.wallMs,
    reason,
  }
  return { next: { head, state: next }, effects: [] }
}

/** What a participant says of an error, as much of it as is kept: each of a transaction's deliveries holds one. */
const brief = (error: string): string =>
  error.length > ERROR_CHARACTERS_MAX ? `${error.slice(0, ERROR_CHARACTERS_MAX - 1)}…` : error

function conflict(image: MessageImage, how: string): Decision {
  const { state } = image
  const by = 'settledBy' in state ? state.settledBy : ''
  return {
    effects: [],
    refused: new EscrowError('resolutionConflict', `the transaction was ${how} already, by ${by}`, {
      details: { status: statusOf(image), settledBy: by },
    }),
  }
}

function park(image: MessageImage, state: Prepared, reason: string): Decision {
  return {
    next: { head: image.head, state: { phase: 'undecided', checks: state.checks, reason } },
    effects: [],
  }
}

function checkBackDue(image: MessageImage, state: Prepared, { logMs, wallMs }: Moment): Decision {
  if (logMs >= state.unresolvedAtMs)
    return park(image, state, 'unresolved: nobody could say in time how the local transaction ended')
  if (wallMs >= state.lastCheckAtMs)
    return park(image, state, 'last-dispatch deadline passed: the barrier may have forgotten')
  return { effects: [{ type: 'CheckBack', attempt: state.checks + 1 }] }
}

function answerCheckBack(
  image: MessageImage,
  outcome: CheckBackResponse | NobodyAsked,
  moment: Moment,
): Decision {
  const { head, state } = image
  if (state.phase !== 'prepared' && state.phase !== 'undecided') return NOTHING
  const asked = 'resolution' in outcome
  const checks = state.checks + (asked ? 1 : 0)
  let error = outcome.error
  if ('resolution' in outcome) {
    const counted = { head, state: { ...state, checks } }
    if (outcome.resolution === 'rollback') return rollback(counted, 'checkBack', brief(error), moment)
    if (outcome.resolution === 'commit') {
      const fixed = fixBodies(head, outcome.bodies, false)
      if (!(fixed instanceof EscrowError)) return committed(fixed, counted.state, 'checkBack', moment)
      error = fixed.message
    }
  }
  if (state.phase === 'undecided') return NOTHING
  const misses = asked ? 0 : state.misses + 1
  if (asked && checks >= head.checkBack.checksMax)
    return exhausted(image, { ...state, checks }, error, moment)
  // Half of the bound is fixed, so that a crowd spreads out without anybody being asked at once again.
  const bound = boundMs(head.checkBack, Math.max(1, checks + misses))
  const nextCheckAtMs = moment.logMs + Math.ceil(bound / 2) + Math.floor((bound / 2) * moment.random())
  return { next: { head, state: { ...state, checks, misses, nextCheckAtMs } }, effects: [] }
}

function exhausted(image: MessageImage, state: Prepared, error: string, moment: Moment): Decision {
  const { head } = image
  const counted = { head, state }
  if (head.checkBack.onExhausted === 'rollback')
    return rollback(counted, 'policy', 'check-backs exhausted', moment)
  if (head.checkBack.onExhausted === 'commit') {
    const decision = commit(counted, 'policy', [], moment)
    if (decision.refused === undefined) return decision
  }
  return park(image, state, brief(`check-backs exhausted: ${error}`))
}

/** The image with one delivery changed; finished when nothing is left to do. */
function withDelivery(
  image: MessageImage,
  state: Committed,
  index: number,
  delivery: MessageDelivery,
  wallMs: number,
): MessageImage {
  const deliveries = state.deliveries.with(index, delivery)
  const finished = deliveries.every(({ status }) => status === 'delivered' || status === 'skipped')
  return { head: image.head, state: { ...state, deliveries, finishedAtMs: finished ? wallMs : 0 } }
}

function dispatchDelivery(image: MessageImage, index: number, moment: Moment): Decision {
  const { head, state } = image
  const delivery = state.phase === 'committed' ? state.deliveries[index] : undefined
  if (state.phase !== 'committed' || delivery?.status !== 'waiting') return NOTHING
  const { wallMs } = moment
  if (wallMs >= delivery.lastDispatchAtMs) {
    const error =
      delivery.firstDispatchAtMs === 0 ? 'nobody could take it in time' : 'last-dispatch deadline passed'
    return {
      next: withDelivery(image, state, index, { ...delivery, status: 'parked', error }, wallMs),
      effects: [],
    }
  }
  const route = moment.route(image, index)
  if (route === undefined) return NOTHING
  const effects: MessageEffect[] = [{ type: 'Publication', index, attempt: delivery.attempts + 1 }]
  if (delivery.firstDispatchAtMs > 0) return { effects }
  const dispatched: MessageDelivery = {
    ...delivery,
    firstDispatchAtMs: wallMs,
    lastDispatchAtMs: wallMs + head.retry.lastDispatchMsMax,
    databaseId: route.databaseId,
  }
  return { next: withDelivery(image, state, index, dispatched, wallMs), effects }
}

function answerDelivery(
  image: MessageImage,
  { index, attempt, outcome }: Extract<MessageCommand, { type: 'answerDelivery' }>,
  moment: Moment,
): Decision {
  const { head, state } = image
  const delivery = state.phase === 'committed' ? state.deliveries[index] : undefined
  if (state.phase !== 'committed' || delivery?.status !== 'waiting') return NOTHING
  const { wallMs, logMs } = moment
  const change = (changed: Partial<MessageDelivery>): Decision => ({
    next: withDelivery(image, state, index, { ...delivery, ...changed }, wallMs),
    effects: [],
  })
  // It was taken, whichever attempt did it.
  if (outcome.outcome === 'delivered') return change({ status: 'delivered', error: '' })
  if (attempt !== delivery.attempts + 1) return NOTHING
  const { outcome: how, error } = outcome
  switch (how) {
    case 'noSession':
      // Nobody was asked: no attempt. The engine says so only where it holds too many to remember this one.
      return change({
        nextAttemptAtMs: logMs + Math.floor(head.retry.delayMsMax * (0.5 + moment.random() / 2)),
      })
    case 'refused':
      return change({ status: 'parked', attempts: attempt, error: brief(`refused: ${error}`) })
    case 'failed':
    case 'unknown': {
      if (attempt >= head.retry.attemptsMax) {
        return change({ status: 'parked', attempts: attempt, error: brief(`attempts exhausted: ${error}`) })
      }
      const nextAttemptAtMs = logMs + fullJitterMs(head.retry, attempt, moment.random())
      return change({ attempts: attempt, nextAttemptAtMs, error: brief(error) })
    }
    default:
      return unreachable(how)
  }
}

/** The parked delivery that an operator means. */
function parkedDelivery(
  image: MessageImage,
  state: Committed,
  executionId: ExecutionId,
): { index: number; delivery: MessageDelivery } | Decision {
  const index = state.deliveries.findIndex((_, at) => deliveryExecutionId(image.head, at) === executionId)
  const delivery = state.deliveries[index]
  if (delivery === undefined)
    return refuse('unknownExecution', `no execution ${JSON.stringify(executionId)} in this transaction`)
  if (delivery.status !== 'parked')
    return refuse('notParked', `execution ${executionId} is ${delivery.status}, not parked`)
  return { index, delivery }
}

function retry(
  image: MessageImage,
  executionId: ExecutionId,
  acceptPossibleDuplicate: boolean,
  moment: Moment,
): Decision {
  const { head, state } = image
  if (state.phase === 'undecided') return retryCheckBack(image, executionId, acceptPossibleDuplicate, moment)
  if (state.phase !== 'committed')
    return refuse('notParked', `the transaction is ${statusOf(image)}, not parked`)
  const parked = parkedDelivery(image, state, executionId)
  if (!('delivery' in parked)) return parked
  const { index, delivery } = parked
  const { wallMs, logMs } = moment
  const late = delivery.firstDispatchAtMs > 0 && wallMs >= delivery.lastDispatchAtMs
  if (late && !acceptPossibleDuplicate) {
    return refuse(
      'possibleDuplicate',
      'the last-dispatch deadline has passed: the destination may have taken it, and forgotten',
    )
  }
  const again: MessageDelivery = {
    ...delivery,
    status: 'waiting',
    attempts: 0,
    nextAttemptAtMs: logMs,
    firstDispatchAtMs: late ? 0 : delivery.firstDispatchAtMs,
    lastDispatchAtMs:
      delivery.firstDispatchAtMs === 0 || late
        ? wallMs + head.retry.lastDispatchMsMax
        : delivery.lastDispatchAtMs,
  }
  return { next: withDelivery(image, state, index, again, wallMs), effects: [] }
}

function retryCheckBack(
  image: MessageImage,
  executionId: ExecutionId,
  acceptPossibleDuplicate: boolean,
  { wallMs, logMs }: Moment,
): Decision {
  const { head } = image
  if (executionId !== head.executionId) {
    return refuse(
      'unknownExecution',
      `no execution ${JSON.stringify(executionId)} is parked in this transaction`,
    )
  }
  if (wallMs >= head.preparedAtMs + head.retry.lastDispatchMsMax && !acceptPossibleDuplicate) {
    return refuse(
      'possibleDuplicate',
      'the barrier may have forgotten the local transaction, and would let it roll back',
    )
  }
  const next: Prepared = {
    phase: 'prepared',
    checks: 0,
    misses: 0,
    nextCheckAtMs: logMs,
    unresolvedAtMs: logMs + head.checkBack.unresolvedMsMax,
    lastCheckAtMs: wallMs + head.retry.lastDispatchMsMax,
  }
  return { next: { head, state: next }, effects: [{ type: 'CheckBack', attempt: 1 }] }
}

function skip(image: MessageImage, executionId: ExecutionId, moment: Moment): Decision {
  const { state } = image
  if (state.phase === 'undecided') {
    return refuse(
      'unsupported',
      'a half message that is parked undecided is settled with commit or rollback, or retried',
    )
  }
  if (state.phase !== 'committed')
    return refuse('notParked', `the transaction is ${statusOf(image)}, not parked`)
  const parked = parkedDelivery(image, state, executionId)
  if (!('delivery' in parked)) return parked
  const skipped: MessageDelivery = { ...parked.delivery, status: 'skipped' }
  return { next: withDelivery(image, state, parked.index, skipped, moment.wallMs), effects: [] }
}
