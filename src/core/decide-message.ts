import type { CheckBackResponse, FixedBody } from './api.ts'
import { boundMs } from './backoff.ts'
import { answerDelivery, dispatchDelivery, retryDelivery, skipDelivery } from './decide-delivery.ts'
import {
  brief,
  type Decision,
  type MessageCommand,
  type MessageEffect,
  type Moment,
  NO_EFFECTS,
  NOTHING,
  type NobodyAsked,
  refuse,
  type UnusableCommit,
} from './decision.ts'
import type { HalfMessage } from './envelope.ts'
import { EscrowError, unreachable } from './errors.ts'
import {
  type Committed,
  type MessageDelivery,
  type MessageHead,
  type MessageImage,
  type MessageState,
  type Prepared,
  type SettledBy,
  statusOf,
  type Undecided,
} from './message.ts'

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
      return image.state.phase === 'undecided'
        ? retryCheckBack(image, command, moment)
        : retryDelivery(image, command, moment)
    case 'skipExecution':
      if (image.state.phase !== 'undecided') return skipDelivery(image, command.executionId, moment)
      return refuse(
        'unsupported',
        'a half message that is parked undecided is settled with commit or rollback, or retried',
      )
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
  return { next: { head, state }, effects: NO_EFFECTS }
}

function commit(image: MessageImage, by: SettledBy, bodies: readonly FixedBody[], moment: Moment): Decision {
  const { head, state } = image
  if (state.phase === 'rolledBack') return conflict(image, 'rolled back')
  const fixed = fixBodies(head, bodies, state.phase === 'committed')
  if (fixed instanceof EscrowError) return { effects: [], refused: fixed }
  const refused = tooLarge(head, fixed, moment)
  if (refused !== undefined) return { effects: [], refused }
  return state.phase === 'committed' ? NOTHING : committed(fixed, state, by, moment)
}

/** Of the bodies that are fixed now, what is wrong with the first that its broker would not take. */
function tooLarge(head: MessageHead, fixed: MessageHead, moment: Moment): EscrowError | undefined {
  if (fixed === head) return undefined
  for (const [index, message] of fixed.messages.entries()) {
    if (head.messages[index]?.body !== undefined) continue
    const refused = moment.tooLarge(message, head.trace)
    if (refused !== undefined) return refused
  }
  return undefined
}

function committed(
  head: MessageHead,
  from: Prepared | Undecided,
  settledBy: SettledBy,
  moment: Moment,
): Decision {
  const { wallMs, order } = moment
  const deliveries: MessageDelivery[] = []
  const next: { head: MessageHead; state: Committed } = {
    head,
    state: {
      phase: 'committed',
      checks: from.checks,
      settledBy,
      settledAtMs: wallMs,
      order,
      deliveries,
      finishedAtMs: 0,
    },
  }
  for (const { deliverAtMs } of head.messages) deliveries.push(undispatched(head, deliverAtMs, moment))
  // The first dispatch goes into the same record wherever somebody is there to take it: one append less a message.
  const effects: MessageEffect[] = []
  for (let index = 0; index < deliveries.length; index++) {
    if ((head.messages[index] as HalfMessage).deliverAtMs > wallMs) continue
    const route = moment.route(next, index)
    if (route === undefined) continue
    effects.push({ type: 'Publication', index, attempt: 1 })
    deliveries[index] = undispatched(head, 0, moment, wallMs, route.databaseId)
  }
  return { next, effects }
}

function undispatched(
  head: MessageHead,
  deliverAtMs: number,
  { wallMs, logMs }: Moment,
  firstDispatchAtMs = 0,
  databaseId = '',
): MessageDelivery {
  const isDelayed = deliverAtMs > wallMs
  return {
    status: 'waiting',
    attempts: 0,
    nextAttemptAtMs: isDelayed ? 0 : logMs,
    firstDispatchAtMs,
    lastDispatchAtMs: (isDelayed ? deliverAtMs : wallMs) + head.retry.lastDispatchMsMax,
    databaseId,
    error: '',
  }
}

/** The head with every body fixed; an error if one is missing, or differs from what it was fixed to. */
function fixBodies(
  head: MessageHead,
  bodies: readonly FixedBody[],
  settled: boolean,
): MessageHead | EscrowError {
  if (bodies.length === 0 && (settled || head.messages.every(({ body }) => body !== undefined))) return head
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
  outcome: CheckBackResponse | UnusableCommit | NobodyAsked,
  moment: Moment,
): Decision {
  const { head, state } = image
  if (state.phase !== 'prepared' && state.phase !== 'undecided') return NOTHING
  const asked = 'resolution' in outcome
  const checks = state.checks + (asked ? 1 : 0)
  let error = outcome.error
  let hasCommitted = false
  if ('resolution' in outcome) {
    const counted = { head, state: { ...state, checks } }
    if (outcome.resolution === 'rollback') return rollback(counted, 'checkBack', brief(error), moment)
    if (outcome.resolution === 'commit') {
      const fixed = fixBodies(head, outcome.bodies, false)
      // Too large for a broker, perhaps: nothing undoes the local transaction, so that this delivery parks, and no other.
      if (!(fixed instanceof EscrowError)) return committed(fixed, counted.state, 'checkBack', moment)
      error = fixed.message
    }
    hasCommitted = outcome.resolution === 'commit' || outcome.resolution === 'unusableCommit'
  }
  if (state.phase === 'undecided') return NOTHING
  const misses = asked ? 0 : state.misses + 1
  if (asked && checks >= head.checkBack.checksMax) {
    const counted = { ...state, checks }
    // The caller's choice is for what nobody knows, and this is known: to roll back would lose the messages.
    return hasCommitted ? park(image, counted, spent(error)) : exhausted(image, counted, error, moment)
  }
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
  return park(image, state, spent(error))
}

const spent = (error: string): string => brief(`check-backs exhausted: ${error}`)

function retryCheckBack(
  image: MessageImage,
  { executionId, acceptPossibleDuplicate }: Extract<MessageCommand, { type: 'retryExecution' }>,
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
