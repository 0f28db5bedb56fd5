import type { MessageState } from '../core/message.ts'
import { isSaga, type TransactionImage } from '../core/transaction.ts'
import type { ImageFacts } from '../store/images.ts'

/** What people read about an image. */
export function factsOf(image: TransactionImage): ImageFacts {
  const { traceparent } = image.head.trace
  const traceId = traceparent.split('-')[1] ?? ''
  if (isSaga(image)) {
    const { head, state } = image
    return {
      kind: 'saga',
      name: head.saga,
      version: head.version,
      beganAtMs: head.startedAtMs,
      settledAtMs: state.finishedAtMs,
      traceId,
      error: state.stuck || state.reason || parkedError(image),
    }
  }
  const { head, state } = image
  return {
    kind: 'message',
    name: head.checker,
    version: 0,
    beganAtMs: head.preparedAtMs,
    settledAtMs: 'settledAtMs' in state ? state.settledAtMs : 0,
    traceId,
    error: errorOf(state),
  }
}

/** The error of the first operation that is parked. */
function parkedError({ state }: Extract<TransactionImage, { head: { kind: 'saga' } }>): string {
  for (const n of state.active) {
    const action = state.executions.get(n)?.action
    if (action?.status === 'parked') return action.error
  }
  for (const n of state.undoing) {
    const compensation = state.executions.get(n)?.compensation
    if (compensation?.status === 'parked') return compensation.error
  }
  return ''
}

function errorOf(state: MessageState): string {
  if ('reason' in state) return state.reason
  if (state.phase !== 'committed') return ''
  return state.deliveries.find((delivery) => delivery.status === 'parked')?.error ?? ''
}
