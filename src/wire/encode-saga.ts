/** What sagas need on a session, into frames: written by hand like the rest of encode-items.ts. */
import type {
  CompleteRequest,
  SignalRequest,
  StartRequest,
  StartResponse,
  StepRequest,
  StepResponse,
} from '../core/api.ts'
import { delimited, writeMap, writeRef, writeTrace } from './encode-parts.ts'
import type { CallItem } from './items.ts'
import type { ProtoWriter } from './proto-writer.ts'
import { statusNumber, stepOperationNumber, stepOutcomeNumber } from './scalars.ts'

/** Writes a start. */
export function writeStart(writer: ProtoWriter, tag: number, request: StartRequest): void {
  const guess = 150 + (request.input?.length ?? 0) + (request.slip?.length ?? 0)
  const start = writer.open(tag, guess)
  writer.text(delimited(1), request.namespace)
  writer.text(delimited(2), request.id)
  writer.text(delimited(3), request.saga)
  writer.uint32(4 << 3, request.version ?? 0)
  writeJson(writer, delimited(5), request.slip)
  writeJson(writer, delimited(6), request.input)
  writer.text(delimited(7), request.orderingKey)
  writer.text(delimited(8), request.businessKey)
  if (request.tags !== undefined) writeMap(writer, delimited(9), request.tags)
  writer.int64(10 << 3, request.timeoutMs ?? 0)
  if (request.trace !== undefined) writeTrace(writer, delimited(11), request.trace)
  writer.close(start, guess)
}

/** Writes the answer to a start. */
export function writeStarted(writer: ProtoWriter, tag: number, response: StartResponse): void {
  const start = writer.open(tag, 100)
  writer.text(delimited(1), response.id)
  writer.text(delimited(2), response.executionId)
  writer.uint32(3 << 3, statusNumber(response.status))
  writer.uint32(4 << 3, response.version)
  writer.close(start, 100)
}

/** Writes a signal. */
export function writeSignal(writer: ProtoWriter, tag: number, request: SignalRequest): void {
  const guess = 80 + (request.payload?.length ?? 0)
  const start = writer.open(tag, guess)
  writeRef(writer, request)
  writer.text(delimited(3), request.signal)
  writeJson(writer, delimited(4), request.payload)
  writer.text(delimited(5), request.signalId)
  writer.close(start, guess)
}

/** Writes how a step ended that was answered `later`. */
export function writeComplete(writer: ProtoWriter, tag: number, request: CompleteRequest): void {
  const guess = 100 + (request.response.result?.length ?? 0)
  const start = writer.open(tag, guess)
  writeRef(writer, request)
  writer.text(delimited(3), request.executionId)
  writeStepResponse(writer, delimited(4), request.response)
  writer.uint32(5 << 3, request.attempt ?? 0)
  writer.close(start, guess)
}

/** Writes a call of a step. */
export function writeStep(writer: ProtoWriter, { callId, databaseId }: CallItem, request: StepRequest): void {
  const guess = 180 + request.input.length + request.result.length
  const start = writer.open(delimited(9), guess)
  writer.int64(1 << 3, callId)
  const nested = writer.open(delimited(2), guess)
  writer.text(delimited(1), request.namespace)
  writer.text(delimited(2), request.transactionId)
  writer.text(delimited(3), request.executionId)
  writer.uint32(4 << 3, request.attempt)
  writer.text(delimited(5), request.service)
  writer.text(delimited(6), request.step)
  writer.uint32(7 << 3, stepOperationNumber(request.operation))
  writer.text(delimited(8), request.input)
  writer.text(delimited(9), request.result)
  writer.bool(10 << 3, request.isActionDone)
  writer.text(delimited(11), request.saga)
  writeTrace(writer, delimited(12), request.trace)
  writer.int64(13 << 3, request.timeoutMs)
  writer.close(nested, guess)
  writer.text(delimited(3), databaseId)
  writer.close(start, guess)
}

/** Writes the answer to a call of a step. */
export function writeStepAnswer(writer: ProtoWriter, callId: number, response: StepResponse): void {
  const guess = 12 + (response.result?.length ?? 0)
  const start = writer.open(delimited(8), guess)
  writer.int64(1 << 3, callId)
  writeStepResponse(writer, delimited(2), response)
  writer.close(start, guess)
}

function writeStepResponse(writer: ProtoWriter, tag: number, response: StepResponse): void {
  const guess = 4 + (response.result?.length ?? 0)
  const start = writer.open(tag, guess)
  writer.uint32(1 << 3, stepOutcomeNumber(response.outcome))
  writeJson(writer, delimited(2), response.result)
  writer.text(delimited(3), response.code)
  writer.text(delimited(4), response.error)
  writer.close(start, guess)
}

function writeJson(writer: ProtoWriter, tag: number, json: Uint8Array | undefined): void {
  if (json !== undefined) writer.bytes(tag, json)
}
