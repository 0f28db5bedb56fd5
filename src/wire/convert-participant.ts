/** What a coordinator asks of participants, and what it is told of them, between gen/ and core/api.ts. */
import { create } from '@bufbuild/protobuf'
import type {
  CheckBackRequest,
  CheckBackResponse,
  DeliverRequest,
  DeliverResponse,
  Registration,
  StepRequest,
  StepResponse,
} from '../core/api.ts'
import {
  bodiesFromProto,
  bodiesToProto,
  bytesFor,
  jsonFor,
  jsonFrom,
  traceFromProto,
} from './convert-prepare.ts'
import * as proto from './gen/escrow/v1/participant_pb.ts'
import {
  bigintOf,
  checkUint32,
  numberOf,
  outcomeNumber,
  outcomeOf,
  resolutionNumber,
  resolutionOf,
  stepOperationNumber,
  stepOperationOf,
  stepOutcomeNumber,
  stepOutcomeOf,
} from './scalars.ts'

/** The delivery of a message. Throws `invalidArgument` for a time beyond 2^53. */
export function deliverRequestFromProto(message: proto.DeliverRequest): DeliverRequest {
  return {
    namespace: message.namespace,
    transactionId: message.transactionId,
    executionId: message.executionId,
    attempt: message.attempt,
    service: message.service,
    handler: message.handler,
    body: message.body,
    headers: message.headers,
    key: message.key,
    contentType: message.contentType,
    trace: traceFromProto(message.trace),
    timeoutMs: numberOf('timeout_ms', message.timeoutMs),
  }
}

/** The message of a delivery. */
export function deliverRequestToProto(request: DeliverRequest): proto.DeliverRequest {
  return create(proto.DeliverRequestSchema, {
    namespace: request.namespace,
    transactionId: request.transactionId,
    executionId: request.executionId,
    attempt: checkUint32('attempt', request.attempt),
    service: request.service,
    handler: request.handler,
    body: bytesFor(request.body),
    headers: { ...request.headers },
    key: request.key,
    contentType: request.contentType,
    trace: { ...request.trace },
    timeoutMs: bigintOf('timeoutMs', request.timeoutMs),
  })
}

/** The answer of a message; an outcome that isn't said, or isn't known, is `unknown`. */
export const deliverResponseFromProto = (message: proto.DeliverResponse): DeliverResponse => ({
  outcome: outcomeOf(message.outcome),
  error: message.error,
})

/** The message of an answer; `unknown` leaves the outcome unsaid. */
export const deliverResponseToProto = (response: DeliverResponse): proto.DeliverResponse =>
  create(proto.DeliverResponseSchema, { outcome: outcomeNumber(response.outcome), error: response.error })

/** The check-back of a message. Throws `invalidArgument` for a time beyond 2^53. */
export function checkBackRequestFromProto(message: proto.CheckBackRequest): CheckBackRequest {
  return {
    namespace: message.namespace,
    transactionId: message.transactionId,
    executionId: message.executionId,
    attempt: message.attempt,
    checker: message.checker,
    preparedAtMs: numberOf('prepared_at_ms', message.preparedAtMs),
    trace: traceFromProto(message.trace),
    timeoutMs: numberOf('timeout_ms', message.timeoutMs),
  }
}

/** The message of a check-back. */
export function checkBackRequestToProto(request: CheckBackRequest): proto.CheckBackRequest {
  return create(proto.CheckBackRequestSchema, {
    namespace: request.namespace,
    transactionId: request.transactionId,
    executionId: request.executionId,
    attempt: checkUint32('attempt', request.attempt),
    checker: request.checker,
    preparedAtMs: bigintOf('preparedAtMs', request.preparedAtMs),
    trace: { ...request.trace },
    timeoutMs: bigintOf('timeoutMs', request.timeoutMs),
  })
}

/** The answer of a message; a resolution that isn't said, or isn't known, is `unknown`. */
export const checkBackResponseFromProto = (message: proto.CheckBackResponse): CheckBackResponse => ({
  resolution: resolutionOf(message.resolution),
  bodies: bodiesFromProto(message.bodies),
  error: message.error,
})

/** The message of an answer. */
export const checkBackResponseToProto = (response: CheckBackResponse): proto.CheckBackResponse =>
  create(proto.CheckBackResponseSchema, {
    resolution: resolutionNumber(response.resolution),
    bodies: bodiesToProto(response.bodies),
    error: response.error,
  })

/** The call of a message. Throws `invalidArgument` for a time beyond 2^53, and for an operation that isn't known. */
export function stepRequestFromProto(message: proto.StepRequest): StepRequest {
  return {
    namespace: message.namespace,
    transactionId: message.transactionId,
    executionId: message.executionId,
    attempt: message.attempt,
    service: message.service,
    step: message.step,
    operation: stepOperationOf(message.operation),
    input: Buffer.from(message.input).toString(),
    result: Buffer.from(message.result).toString(),
    isActionDone: message.isActionDone,
    saga: message.saga,
    trace: traceFromProto(message.trace),
    timeoutMs: numberOf('timeout_ms', message.timeoutMs),
  }
}

/** The message of a call. */
export function stepRequestToProto(request: StepRequest): proto.StepRequest {
  return create(proto.StepRequestSchema, {
    namespace: request.namespace,
    transactionId: request.transactionId,
    executionId: request.executionId,
    attempt: checkUint32('attempt', request.attempt),
    service: request.service,
    step: request.step,
    operation: stepOperationNumber(request.operation),
    input: Buffer.from(request.input),
    result: Buffer.from(request.result),
    isActionDone: request.isActionDone,
    saga: request.saga,
    trace: { ...request.trace },
    timeoutMs: bigintOf('timeoutMs', request.timeoutMs),
  })
}

/** The answer of a message; an outcome that isn't said, or isn't known, is `unknown`. */
export const stepResponseFromProto = (message: proto.StepResponse | undefined): StepResponse => ({
  outcome: stepOutcomeOf(message?.outcome ?? 0),
  result: message === undefined ? undefined : jsonFrom(message.result),
  code: message?.code ?? '',
  error: message?.error ?? '',
})

/** The message of an answer; `unknown` leaves the outcome unsaid. */
export const stepResponseToProto = (response: StepResponse): proto.StepResponse =>
  create(proto.StepResponseSchema, {
    outcome: stepOutcomeNumber(response.outcome),
    result: jsonFor(response.result),
    code: response.code,
    error: response.error,
  })

/** The names of a message that registers them. */
export const registrationFromProto = (message: {
  readonly checkers: readonly string[]
  readonly handlers: readonly string[]
  readonly steps: readonly string[]
  readonly databaseId: string
}): Registration => ({
  checkers: message.checkers,
  handlers: message.handlers,
  steps: message.steps,
  databaseId: message.databaseId,
})
