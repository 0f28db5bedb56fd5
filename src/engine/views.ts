import type { Operation, Operations, TransactionView } from '../core/api.ts'
import { deliveryExecutionId, type MessageImage, outstanding, statusOf } from '../core/message.ts'

/** A transaction for a reader, without its bodies. `outagesMs`: wall time less log time, in its log. */
export function viewOf(image: MessageImage, outagesMs: number): TransactionView {
  const { head, state } = image
  const committed = state.phase === 'committed' ? state : undefined
  const planned = new Map<number, number>()
  for (const due of outstanding(image)) {
    if (due.what === 'delivery') planned.set(due.index, due.clock === 'log' ? due.atMs + outagesMs : due.atMs)
  }
  return {
    namespace: head.namespace,
    id: head.id,
    kind: 'message',
    status: statusOf(image),
    executionId: head.executionId,
    checker: head.checker,
    orderingKey: head.orderingKey,
    preparedAtMs: head.preparedAtMs,
    settledAtMs: 'settledAtMs' in state ? state.settledAtMs : 0,
    settledBy: 'settledBy' in state ? state.settledBy : '',
    checks: state.checks,
    reason: 'reason' in state ? state.reason : '',
    deliveries: (committed?.deliveries ?? []).map((delivery, index) => ({
      executionId: deliveryExecutionId(head, index),
      destination: head.messages[index]?.destination ?? '',
      status: delivery.status,
      attempts: delivery.attempts,
      error: delivery.error,
      nextAttemptAtMs: planned.get(index) ?? 0,
    })),
    trace: head.trace,
  }
}

/** The response to an operation on one transaction, as of an image. */
export function responseOf(
  op: Operation,
  image: MessageImage,
  outagesMs: number,
): Operations[Operation]['response'] {
  switch (op) {
    case 'prepare':
      return { id: image.head.id, executionId: image.head.executionId, status: statusOf(image) }
    case 'get':
    case 'wait':
      return viewOf(image, outagesMs)
    default:
      return { status: statusOf(image) }
  }
}
