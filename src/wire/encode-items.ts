/**
 * Items into frames, field by field as protos/escrow/v1/session.proto numbers them. What every transaction needs is
 * written by hand; what is seldom goes through protobuf-es.
 */
import { toBinary } from '@bufbuild/protobuf'
import type {
  CheckBackRequest,
  CheckBackResponse,
  DeliverRequest,
  DeliverResponse,
  Operation,
  Operations,
  PrepareRequest,
} from '../core/api.ts'
import type { HalfMessageInput } from '../core/envelope.ts'
import { type EscrowError, unreachable } from '../core/errors.ts'
import type { CheckBackPolicy, RetryPolicy } from '../core/message.ts'
import { OPERATION_SCHEMAS, requestToProto, responseToProto } from './convert.ts'
import { delimited, writeBodies, writeMap, writeRef, writeTrace } from './encode-parts.ts'
import {
  writeComplete,
  writeSignal,
  writeStart,
  writeStarted,
  writeStep,
  writeStepAnswer,
} from './encode-saga.ts'
import { helloBytes, registrationBytes, routingsBytes, welcomeBytes } from './handshake.ts'
import type { CallItem, CoordinatorItem, ServiceItem } from './items.ts'
import type { ProtoWriter } from './proto-writer.ts'
import { exhaustedNumber, outcomeNumber, resolutionNumber, statusNumber } from './scalars.ts'

/** The field of each operation, the same in `Command` and `Reply`. */
export const OPERATION_FIELD: { readonly [Op in Operation]: number } = {
  prepare: 3,
  commit: 4,
  rollback: 5,
  requestCheckBack: 6,
  get: 7,
  list: 8,
  wait: 9,
  retry: 10,
  skip: 11,
  compensate: 12,
  startSaga: 13,
  signal: 14,
  complete: 15,
  cancel: 16,
  migrateSaga: 17,
}

/** Writes an item of a `ConnectRequest`. Throws `invalidArgument` for a number that no field can hold. */
export function writeServiceItem(writer: ProtoWriter, item: ServiceItem): void {
  switch (item.type) {
    case 'command':
      return writeCommand(writer, item)
    case 'deliveryAnswer':
      return writeDeliveryAnswer(writer, item.callId, item.response)
    case 'checkBackAnswer':
      return writeCheckBackAnswer(writer, item.callId, item.response)
    case 'stepAnswer':
      return writeStepAnswer(writer, item.callId, item.response)
    case 'hello':
      return writer.message(delimited(3), helloBytes(item))
    case 'register':
      return writer.message(delimited(7), registrationBytes(item))
    case 'noSession':
      return writeNoSession(writer, item.callId, item.error)
    default:
      return unreachable(item)
  }
}

/** Writes an item of a `ConnectResponse`. Throws `invalidArgument` for a number that no field can hold. */
export function writeCoordinatorItem(writer: ProtoWriter, item: CoordinatorItem): void {
  switch (item.type) {
    case 'reply':
      return writeReply(writer, item)
    case 'failure':
      return writeFailure(writer, item.commandId, item.error)
    case 'delivery':
      return writeDelivery(writer, item, item.request)
    case 'checkBack':
      return writeCheckBack(writer, item, item.request)
    case 'step':
      return writeStep(writer, item, item.request)
    case 'registered':
      return writeRegistered(writer, item.number, item.error)
    case 'welcome':
      return writer.message(delimited(3), welcomeBytes(item))
    case 'drain':
      return writer.bool(8 << 3, true)
    case 'routings':
      return writer.message(delimited(10), routingsBytes(item.routings))
    default:
      return unreachable(item)
  }
}

type CommandItem = Extract<ServiceItem, { type: 'command' }>

function writeCommand(writer: ProtoWriter, item: CommandItem): void {
  const guess = item.op === 'prepare' ? guessPrepare(item.request) : 100
  const start = writer.open(delimited(4), guess)
  writer.int64(1 << 3, item.commandId)
  writer.uint32(2 << 3, item.timeoutMs)
  writeRequest(writer, item)
  writer.close(start, guess)
}

function writeRequest(writer: ProtoWriter, item: CommandItem): void {
  const tag = delimited(OPERATION_FIELD[item.op])
  switch (item.op) {
    case 'prepare':
      return writePrepare(writer, tag, item.request)
    case 'commit': {
      const start = writer.open(tag, 60)
      writeRef(writer, item.request)
      writeBodies(writer, delimited(3), item.request.bodies)
      return writer.close(start, 60)
    }
    case 'rollback': {
      const start = writer.open(tag, 60)
      writeRef(writer, item.request)
      writer.text(delimited(3), item.request.reason)
      return writer.close(start, 60)
    }
    case 'requestCheckBack': {
      const start = writer.open(tag, 60)
      writeRef(writer, item.request)
      return writer.close(start, 60)
    }
    case 'startSaga':
      return writeStart(writer, tag, item.request)
    case 'signal':
      return writeSignal(writer, tag, item.request)
    case 'complete':
      return writeComplete(writer, tag, item.request)
    default: {
      const { request: schema } = OPERATION_SCHEMAS[item.op]
      return writer.message(tag, toBinary(schema, requestToProto(item.op, item.request)))
    }
  }
}

function guessPrepare(request: PrepareRequest): number {
  let guess = 150
  for (const message of request.messages) guess += 80 + (message.body?.length ?? 0)
  return guess
}

function writePrepare(writer: ProtoWriter, tag: number, request: PrepareRequest): void {
  const guess = guessPrepare(request)
  const start = writer.open(tag, guess)
  writer.text(delimited(1), request.namespace)
  writer.text(delimited(2), request.id)
  writer.text(delimited(3), request.checker)
  writer.text(delimited(4), request.orderingKey)
  for (const message of request.messages) writeHalfMessage(writer, message)
  if (request.checkBack !== undefined) writeCheckBackPolicy(writer, request.checkBack)
  if (request.retry !== undefined) writeRetryPolicy(writer, request.retry)
  writer.text(delimited(8), request.databaseId)
  if (request.trace !== undefined) writeTrace(writer, delimited(9), request.trace)
  writer.close(start, guess)
}

function writeHalfMessage(writer: ProtoWriter, message: HalfMessageInput): void {
  const guess = 80 + (message.body?.length ?? 0)
  const start = writer.open(delimited(5), guess)
  writer.text(delimited(1), message.destination)
  // A body beside `bodyAtCommit` means nothing, and isn't sent.
  if (message.bodyAtCommit !== true && message.body !== undefined) writer.bytes(delimited(2), message.body)
  writer.bool(3 << 3, message.bodyAtCommit)
  if (message.headers !== undefined) writeMap(writer, delimited(4), message.headers)
  writer.text(delimited(5), message.key)
  writer.int64(6 << 3, message.deliverAtMs ?? 0)
  writer.text(delimited(7), message.contentType)
  writer.close(start, guess)
}

function writeCheckBackPolicy(writer: ProtoWriter, policy: Partial<CheckBackPolicy>): void {
  const start = writer.open(delimited(6), 20)
  writer.int64(1 << 3, policy.delayMs ?? 0)
  writer.int64(2 << 3, policy.delayMsMax ?? 0)
  writer.uint32(3 << 3, policy.checksMax ?? 0)
  writer.uint32(4 << 3, exhaustedNumber(policy.onExhausted))
  writer.int64(5 << 3, policy.unresolvedMsMax ?? 0)
  writer.close(start, 20)
}

function writeRetryPolicy(writer: ProtoWriter, policy: Partial<RetryPolicy>): void {
  const start = writer.open(delimited(7), 20)
  writer.uint32(1 << 3, policy.attemptsMax ?? 0)
  writer.int64(2 << 3, policy.delayMs ?? 0)
  writer.int64(3 << 3, policy.delayMsMax ?? 0)
  writer.int64(4 << 3, policy.attemptTimeoutMs ?? 0)
  writer.close(start, 20)
}

function writeDeliveryAnswer(writer: ProtoWriter, callId: number, response: DeliverResponse): void {
  const start = writer.open(delimited(5), 12)
  writer.int64(1 << 3, callId)
  const nested = writer.open(delimited(2), 4)
  writer.uint32(1 << 3, outcomeNumber(response.outcome))
  writer.text(delimited(2), response.error)
  writer.close(nested, 4)
  writer.close(start, 12)
}

function writeCheckBackAnswer(writer: ProtoWriter, callId: number, response: CheckBackResponse): void {
  const start = writer.open(delimited(6), 12)
  writer.int64(1 << 3, callId)
  const nested = writer.open(delimited(2), 4)
  writer.uint32(1 << 3, resolutionNumber(response.resolution))
  writeBodies(writer, delimited(2), response.bodies)
  writer.text(delimited(3), response.error)
  writer.close(nested, 4)
  writer.close(start, 12)
}

function writeNoSession(writer: ProtoWriter, callId: number, error: string): void {
  const start = writer.open(delimited(9), 80)
  writer.int64(1 << 3, callId)
  writer.text(delimited(2), error)
  writer.close(start, 80)
}

function writeReply(writer: ProtoWriter, item: Extract<CoordinatorItem, { type: 'reply' }>): void {
  const tag = delimited(OPERATION_FIELD[item.op])
  const start = writer.open(delimited(4), 100)
  writer.int64(1 << 3, item.commandId)
  switch (item.op) {
    case 'prepare': {
      const nested = writer.open(tag, 100)
      writer.text(delimited(1), item.response.id)
      writer.text(delimited(2), item.response.executionId)
      writer.uint32(3 << 3, statusNumber(item.response.status))
      writer.close(nested, 100)
      break
    }
    case 'startSaga':
      writeStarted(writer, tag, item.response)
      break
    case 'get':
    case 'list':
    case 'wait':
    // Fields from 16 on have a tag of two bytes.
    case 'cancel':
    case 'migrateSaga': {
      const { response: schema } = OPERATION_SCHEMAS[item.op]
      writer.message(tag, toBinary(schema, responseToProto(item.op, item.response)))
      break
    }
    default: {
      const nested = writer.open(tag, 2)
      writer.uint32(1 << 3, statusNumber((item.response as Operations['commit']['response']).status))
      writer.close(nested, 2)
    }
  }
  writer.close(start, 100)
}

function writeFailure(writer: ProtoWriter, commandId: number, error: EscrowError): void {
  const start = writer.open(delimited(4), 200)
  writer.int64(1 << 3, commandId)
  writeError(writer, delimited(2), error)
  writer.close(start, 200)
}

function writeRegistered(writer: ProtoWriter, number: number, error: EscrowError | undefined): void {
  const start = writer.open(delimited(7), 4)
  writer.uint32(1 << 3, number)
  if (error !== undefined) writeError(writer, delimited(2), error)
  writer.close(start, 4)
}

function writeError(writer: ProtoWriter, tag: number, error: EscrowError): void {
  const start = writer.open(tag, 200)
  writer.text(delimited(1), error.code)
  writer.text(delimited(2), error.message)
  writer.bool(3 << 3, error.retryable)
  writeMap(writer, delimited(4), error.details)
  writer.close(start, 200)
}

function writeDelivery(writer: ProtoWriter, { callId, databaseId }: CallItem, request: DeliverRequest): void {
  const guess = 180 + request.body.length
  const start = writer.open(delimited(5), guess)
  writer.int64(1 << 3, callId)
  const nested = writer.open(delimited(2), guess)
  writer.text(delimited(1), request.namespace)
  writer.text(delimited(2), request.transactionId)
  writer.text(delimited(3), request.executionId)
  writer.uint32(4 << 3, request.attempt)
  writer.text(delimited(5), request.service)
  writer.text(delimited(6), request.handler)
  writer.bytes(delimited(7), request.body)
  writeMap(writer, delimited(8), request.headers)
  writer.text(delimited(9), request.key)
  writer.text(delimited(10), request.contentType)
  writeTrace(writer, delimited(11), request.trace)
  writer.int64(12 << 3, request.timeoutMs)
  writer.close(nested, guess)
  writer.text(delimited(3), databaseId)
  writer.close(start, guess)
}

function writeCheckBack(
  writer: ProtoWriter,
  { callId, databaseId }: CallItem,
  request: CheckBackRequest,
): void {
  const start = writer.open(delimited(6), 180)
  writer.int64(1 << 3, callId)
  const nested = writer.open(delimited(2), 180)
  writer.text(delimited(1), request.namespace)
  writer.text(delimited(2), request.transactionId)
  writer.text(delimited(3), request.executionId)
  writer.uint32(4 << 3, request.attempt)
  writer.text(delimited(5), request.checker)
  writer.int64(6 << 3, request.preparedAtMs)
  writeTrace(writer, delimited(7), request.trace)
  writer.int64(8 << 3, request.timeoutMs)
  writer.close(nested, 180)
  writer.text(delimited(3), databaseId)
  writer.close(start, 180)
}
