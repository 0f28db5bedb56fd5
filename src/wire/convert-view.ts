/** A transaction for its readers, between gen/ and core/api.ts. */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type { DeliveryView, TransactionView } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { traceFromProto } from './convert-prepare.ts'
import { sagaFromProto, sagaInit } from './convert-saga.ts'
import {
  type Delivery,
  type DeliverySchema,
  type Transaction,
  TransactionSchema,
} from './gen/escrow/v1/transaction_pb.ts'
import {
  bigintOf,
  deliveryStatusNumber,
  deliveryStatusOf,
  kindNumber,
  kindOf,
  numberOf,
  statusNumber,
  statusOf,
} from './scalars.ts'

/** The transaction of a message. Throws `uncertain` for what a newer coordinator says, or for none at all. */
export function viewFromProto(message: Transaction | undefined): TransactionView {
  if (message === undefined)
    throw new EscrowError('uncertain', 'the coordinator answered without a transaction')
  return {
    namespace: message.namespace,
    id: message.id,
    kind: kindOf(message.kind),
    status: statusOf(message.status),
    executionId: message.executionId,
    checker: message.checker,
    orderingKey: message.orderingKey,
    preparedAtMs: numberOf('prepared_at_ms', message.preparedAtMs),
    settledAtMs: numberOf('settled_at_ms', message.settledAtMs),
    settledBy: settledByOf(message.settledBy),
    checks: message.checks,
    reason: message.reason,
    deliveries: message.deliveries.map(deliveryFrom),
    trace: traceFromProto(message.trace),
    saga: message.saga === undefined ? undefined : sagaFromProto(message.saga),
  }
}

/** The message of a transaction. */
export function viewToProto(view: TransactionView): Transaction {
  return create(TransactionSchema, {
    namespace: view.namespace,
    id: view.id,
    kind: kindNumber(view.kind),
    status: statusNumber(view.status),
    executionId: view.executionId,
    checker: view.checker,
    orderingKey: view.orderingKey,
    preparedAtMs: bigintOf('preparedAtMs', view.preparedAtMs),
    settledAtMs: bigintOf('settledAtMs', view.settledAtMs),
    settledBy: view.settledBy,
    checks: view.checks,
    reason: view.reason,
    deliveries: view.deliveries.map(deliveryInit),
    trace: { ...view.trace },
    ...(view.saga === undefined ? {} : { saga: sagaInit(view.saga) }),
  })
}

// Words that a newer coordinator may add tell a reader nothing that it would act on: they aren't refused.
function settledByOf(word: string): TransactionView['settledBy'] {
  return word === 'caller' || word === 'checkBack' || word === 'policy' ? word : ''
}

function deliveryFrom(message: Delivery): DeliveryView {
  return {
    executionId: message.executionId,
    destination: message.destination,
    status: deliveryStatusOf(message.status),
    attempts: message.attempts,
    error: message.error,
    nextAttemptAtMs: numberOf('next_attempt_at_ms', message.nextAttemptAtMs),
  }
}

function deliveryInit(view: DeliveryView): MessageInitShape<typeof DeliverySchema> {
  return {
    executionId: view.executionId,
    destination: view.destination,
    status: deliveryStatusNumber(view.status),
    attempts: view.attempts,
    error: view.error,
    nextAttemptAtMs: bigintOf('nextAttemptAtMs', view.nextAttemptAtMs),
  }
}
