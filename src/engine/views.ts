import type { ExecutionView, Operation, Operations, TransactionView } from '../core/api.ts'
import { deliveryExecutionId, type MessageImage, outstanding, statusOf } from '../core/message.ts'
import { type Execution, executionIdOf, type SagaImage, sagaStatusOf } from '../core/saga/image.ts'
import { isSaga, type TransactionImage, transactionStatusOf } from '../core/transaction.ts'

/** A transaction for a reader, without its bodies. `outagesMs`: wall time less log time, in its log. */
export function viewOf(image: TransactionImage, outagesMs: number): TransactionView {
  return isSaga(image) ? viewOfSaga(image) : viewOfMessage(image, outagesMs)
}

function viewOfMessage(image: MessageImage, outagesMs: number): TransactionView {
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

function viewOfSaga(image: SagaImage): TransactionView {
  const { head, state } = image
  return {
    namespace: head.namespace,
    id: head.id,
    kind: 'saga',
    status: sagaStatusOf(image),
    executionId: head.executionId,
    checker: '',
    orderingKey: head.orderingKey,
    preparedAtMs: head.startedAtMs,
    settledAtMs: state.finishedAtMs,
    settledBy: '',
    checks: 0,
    reason: state.stuck || state.reason,
    deliveries: [],
    trace: head.trace,
    saga: {
      name: head.saga,
      version: head.version,
      hash: head.hash,
      businessKey: state.businessKey,
      tags: state.tags,
      output: state.output === '' ? undefined : Buffer.from(state.output),
      error: state.reason,
      state: machineValue(state.machine.text),
      executions: Array.from(state.executions, (execution) => executionView(image, execution)),
      signals: state.signals.map(({ signal }) => signal),
      timers: state.timers.length,
    },
  }
}

/** The value of a machine, as JSON, of what is kept of it: empty for one that has not begun, or has ended long ago. */
function machineValue(machine: string): string {
  if (machine === '') return ''
  const { value } = JSON.parse(machine) as { readonly value?: unknown }
  return JSON.stringify(value ?? null)
}

function executionView({ head }: SagaImage, execution: Execution): ExecutionView {
  const { n, step, action, compensation } = execution
  const half = compensation ?? action
  return {
    executionId: executionIdOf(head, n),
    step,
    status: action.status,
    attempts: half.attempts,
    error: half.error,
    compensation: compensation?.status ?? '',
  }
}

/** The response to an operation on one transaction, as of an image. */
export function responseOf(
  op: Operation,
  image: TransactionImage,
  outagesMs: number,
): Operations[Operation]['response'] {
  switch (op) {
    case 'prepare':
      return { id: image.head.id, executionId: image.head.executionId, status: transactionStatusOf(image) }
    case 'startSaga':
      return {
        id: image.head.id,
        executionId: image.head.executionId,
        status: transactionStatusOf(image),
        version: isSaga(image) ? image.head.version : 0,
      }
    case 'get':
    case 'wait':
      return viewOf(image, outagesMs)
    default:
      return { status: transactionStatusOf(image) }
  }
}
