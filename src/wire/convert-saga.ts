/** The operations on sagas, and a saga for its readers, between gen/ and core/api.ts. */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type {
  CancelRequest,
  CompleteRequest,
  ExecutionView,
  MigrateRequest,
  SagaView,
  SignalRequest,
  StartRequest,
  StartResponse,
} from '../core/api.ts'
import { stepResponseFromProto, stepResponseToProto } from './convert-participant.ts'
import { jsonFor, jsonFrom, traceFromProto } from './convert-prepare.ts'
import * as proto from './gen/escrow/v1/coordinator_pb.ts'
import type { Execution, Saga, SagaSchema } from './gen/escrow/v1/transaction_pb.ts'
import { bigintOf, checkUint32, numberOf, statusNumber, statusOf } from './scalars.ts'

const tagsFrom = (tags: Readonly<Record<string, string>>): Readonly<Record<string, string>> | undefined =>
  Object.keys(tags).length === 0 ? undefined : tags

/** The start of a message. Throws `invalidArgument` for a time beyond 2^53. */
export const startFromProto = (message: proto.StartSagaRequest): StartRequest => ({
  namespace: message.namespace || undefined,
  id: message.id || undefined,
  saga: message.saga,
  version: message.version || undefined,
  slip: jsonFrom(message.slip),
  input: jsonFrom(message.input),
  orderingKey: message.orderingKey || undefined,
  businessKey: message.businessKey || undefined,
  tags: tagsFrom(message.tags),
  timeoutMs: numberOf('timeout_ms', message.timeoutMs) || undefined,
  trace: message.trace === undefined ? undefined : traceFromProto(message.trace),
})

/** The message of a start. */
export const startToProto = (request: StartRequest): proto.StartSagaRequest =>
  create(proto.StartSagaRequestSchema, {
    namespace: request.namespace ?? '',
    id: request.id ?? '',
    saga: request.saga,
    version: checkUint32('version', request.version ?? 0),
    slip: jsonFor(request.slip),
    input: jsonFor(request.input),
    orderingKey: request.orderingKey ?? '',
    businessKey: request.businessKey ?? '',
    tags: { ...request.tags },
    timeoutMs: bigintOf('timeoutMs', request.timeoutMs ?? 0),
    ...(request.trace === undefined ? {} : { trace: { ...request.trace } }),
  })

/** The answer of a message. Throws `uncertain` for a status of a newer coordinator. */
export const startedFromProto = (message: proto.StartSagaResponse): StartResponse => ({
  id: message.id,
  executionId: message.executionId,
  status: statusOf(message.status),
  version: message.version,
})

/** The message of an answer. */
export const startedToProto = (response: StartResponse): proto.StartSagaResponse =>
  create(proto.StartSagaResponseSchema, {
    id: response.id,
    executionId: response.executionId,
    status: statusNumber(response.status),
    version: checkUint32('version', response.version),
  })

/** The signal of a message. */
export const signalFromProto = (message: proto.SignalSagaRequest): SignalRequest => ({
  namespace: message.namespace || undefined,
  id: message.id,
  signal: message.signal,
  payload: jsonFrom(message.payload),
  signalId: message.signalId || undefined,
})

/** The message of a signal. */
export const signalToProto = (request: SignalRequest): proto.SignalSagaRequest =>
  create(proto.SignalSagaRequestSchema, {
    namespace: request.namespace ?? '',
    id: request.id,
    signal: request.signal,
    payload: jsonFor(request.payload),
    signalId: request.signalId ?? '',
  })

/** The cancellation of a message. */
export const cancelFromProto = (message: proto.CancelSagaRequest): CancelRequest => ({
  namespace: message.namespace || undefined,
  id: message.id,
  reason: message.reason || undefined,
})

/** The message of a cancellation. */
export const cancelToProto = (request: CancelRequest): proto.CancelSagaRequest =>
  create(proto.CancelSagaRequestSchema, {
    namespace: request.namespace ?? '',
    id: request.id,
    reason: request.reason ?? '',
  })

/** The migration of a message. */
export const migrateFromProto = (message: proto.MigrateSagaRequest): MigrateRequest => ({
  namespace: message.namespace || undefined,
  id: message.id,
  toVersion: message.toVersion,
})

/** The message of a migration. */
export const migrateToProto = (request: MigrateRequest): proto.MigrateSagaRequest =>
  create(proto.MigrateSagaRequestSchema, {
    namespace: request.namespace ?? '',
    id: request.id,
    toVersion: checkUint32('toVersion', request.toVersion),
  })

/** The completion of a message; without a response its outcome is `unknown`. */
export const completeFromProto = (message: proto.CompleteStepRequest): CompleteRequest => ({
  namespace: message.namespace || undefined,
  id: message.id,
  executionId: message.executionId,
  response: stepResponseFromProto(message.response),
  attempt: message.attempt || undefined,
})

/** The message of a completion. */
export const completeToProto = (request: CompleteRequest): proto.CompleteStepRequest =>
  create(proto.CompleteStepRequestSchema, {
    namespace: request.namespace ?? '',
    id: request.id,
    executionId: request.executionId,
    response: stepResponseToProto(request.response),
    attempt: checkUint32('attempt', request.attempt ?? 0),
  })

/** The saga of a message. */
export const sagaFromProto = (message: Saga): SagaView => ({
  name: message.name,
  version: message.version,
  hash: message.hash,
  businessKey: message.businessKey,
  tags: message.tags,
  output: jsonFrom(message.output),
  error: message.error,
  state: message.state,
  executions: message.executions.map(executionFrom),
  signals: message.signals,
  timers: message.timers,
})

/** The message of a saga. */
export const sagaInit = (view: SagaView): MessageInitShape<typeof SagaSchema> => ({
  name: view.name,
  version: checkUint32('version', view.version),
  hash: view.hash,
  businessKey: view.businessKey,
  tags: { ...view.tags },
  output: jsonFor(view.output),
  error: view.error,
  state: view.state,
  executions: view.executions.map((execution) => ({ ...execution })),
  signals: [...view.signals],
  timers: checkUint32('timers', view.timers),
})

const executionFrom = (message: Execution): ExecutionView => ({
  executionId: message.executionId,
  step: message.step,
  status: message.status,
  attempts: message.attempts,
  error: message.error,
  compensation: message.compensation,
})
