/** The deliveries of a committed half message, each for itself: see the table in `message.ts`. */
import { fullJitterMs } from './backoff.ts'
import {
  brief,
  type Decision,
  type MessageCommand,
  type MessageEffect,
  type Moment,
  NO_EFFECTS,
  NOTHING,
  refuse,
} from './decision.ts'
import { unreachable } from './errors.ts'
import {
  type Committed,
  deliveryExecutionId,
  type MessageDelivery,
  type MessageImage,
  statusOf,
} from './message.ts'

/** The image with one delivery changed; finished when nothing is left to do. */
function withDelivery(
  image: MessageImage,
  state: Committed,
  index: number,
  delivery: MessageDelivery,
  wallMs: number,
): MessageImage {
  const deliveries = state.deliveries.slice()
  deliveries[index] = delivery
  const { phase, checks, settledBy, settledAtMs, order } = state
  const finishedAtMs = deliveries.every(isOver) ? wallMs : 0
  // Field by field: every delivery comes by here, and a spread costs several times as much.
  return {
    head: image.head,
    state: { phase, checks, settledBy, settledAtMs, order, deliveries, finishedAtMs },
  }
}

const isOver = ({ status }: MessageDelivery): boolean => status === 'delivered' || status === 'skipped'

/** Lets a delivery leave, if it is still to be made and somebody takes it. */
export function dispatchDelivery(image: MessageImage, index: number, moment: Moment): Decision {
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

/** What became of an attempt. */
export function answerDelivery(
  image: MessageImage,
  { index, attempt, outcome }: Extract<MessageCommand, { type: 'answerDelivery' }>,
  moment: Moment,
): Decision {
  const { head, state } = image
  const delivery = state.phase === 'committed' ? state.deliveries[index] : undefined
  if (state.phase !== 'committed' || delivery?.status !== 'waiting') return NOTHING
  const { wallMs, logMs } = moment
  // It was taken, whichever attempt did it.
  if (outcome.outcome === 'delivered') {
    const delivered: MessageDelivery = {
      status: 'delivered',
      attempts: delivery.attempts,
      nextAttemptAtMs: delivery.nextAttemptAtMs,
      firstDispatchAtMs: delivery.firstDispatchAtMs,
      lastDispatchAtMs: delivery.lastDispatchAtMs,
      databaseId: delivery.databaseId,
      error: '',
    }
    return { next: withDelivery(image, state, index, delivered, wallMs), effects: NO_EFFECTS }
  }
  const change = (changed: Partial<MessageDelivery>): Decision => ({
    next: withDelivery(image, state, index, { ...delivery, ...changed }, wallMs),
    effects: NO_EFFECTS,
  })
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

/** An operator has a parked delivery tried again; it is dispatched by a command of its own. */
export function retryDelivery(
  image: MessageImage,
  { executionId, acceptPossibleDuplicate }: Extract<MessageCommand, { type: 'retryExecution' }>,
  moment: Moment,
): Decision {
  const { head, state } = image
  if (state.phase !== 'committed') return notParked(image)
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

/** An operator gives a parked delivery up. */
export function skipDelivery(image: MessageImage, executionId: string, moment: Moment): Decision {
  const { state } = image
  if (state.phase !== 'committed') return notParked(image)
  const parked = parkedDelivery(image, state, executionId)
  if (!('delivery' in parked)) return parked
  const skipped: MessageDelivery = { ...parked.delivery, status: 'skipped' }
  return { next: withDelivery(image, state, parked.index, skipped, moment.wallMs), effects: [] }
}

function notParked(image: MessageImage): Decision {
  return refuse('notParked', `the transaction is ${statusOf(image)}, not parked`)
}

/** The parked delivery that an operator means. */
function parkedDelivery(
  image: MessageImage,
  state: Committed,
  executionId: string,
): { index: number; delivery: MessageDelivery } | Decision {
  const index = state.deliveries.findIndex((_, at) => deliveryExecutionId(image.head, at) === executionId)
  const delivery = state.deliveries[index]
  if (delivery === undefined)
    return refuse('unknownExecution', `no execution ${JSON.stringify(executionId)} in this transaction`)
  if (delivery.status !== 'parked')
    return refuse('notParked', `execution ${executionId} is ${delivery.status}, not parked`)
  return { index, delivery }
}
