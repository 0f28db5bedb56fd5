/** Calls to participants and their answers, out of frames: see decode-items.ts. */
import type { CheckBackResponse, DeliverResponse } from '../core/api.ts'
import {
  checkBackDraft,
  type Draft,
  deliverDraft,
  type LastNames,
  readCheckBack,
  readCheckBackResponse,
  readDeliver,
  readDeliverResponse,
  throwProblem,
} from './decode-parts.ts'
import { readStep, readStepResponse, stepDraft, stepResponseDraft } from './decode-saga.ts'
import type { CoordinatorItem, ServiceItem } from './items.ts'
import { malformed, type ProtoReader } from './proto-reader.ts'

/** Reads a delivery and what it is for. */
export function readDeliveryCall(reader: ProtoReader, names: LastNames): CoordinatorItem {
  const request = deliverDraft()
  const call = { type: 'delivery' as const, callId: 0, request, databaseId: undefined }
  readCall(reader, call, () => readDeliver(reader, names, request))
  return call
}

/** Reads a check-back and what it is about. */
export function readCheckBackCall(reader: ProtoReader, names: LastNames): CoordinatorItem {
  const request = checkBackDraft()
  const call = { type: 'checkBack' as const, callId: 0, request, databaseId: undefined }
  readCall(reader, call, () => readCheckBack(reader, names, request))
  return call
}

/** Reads a call of a step. */
export function readStepCall(reader: ProtoReader, names: LastNames): CoordinatorItem {
  const request = stepDraft()
  const call = { type: 'step' as const, callId: 0, request, databaseId: undefined }
  readCall(reader, call, () => readStep(reader, names, request))
  return call
}

/** Reads what names a call, and has its request read: without one it could not be answered with any sense. */
function readCall(
  reader: ProtoReader,
  call: { callId: number; databaseId: string | undefined },
  read: () => void,
): void {
  let found = false
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) call.callId = reader.counter()
    else if (tag === 18) {
      read()
      found = true
    } else if (tag === 26) call.databaseId = reader.text() || undefined
    else reader.skip(tag, 3)
  }
  reader.leave(outer)
  throwProblem(reader)
  if (!found) throw malformed('a call without a request')
}

/** Reads the answer to a delivery; one without a response is `unknown`. */
export function readDeliveryAnswer(reader: ProtoReader): ServiceItem {
  const response: Draft<DeliverResponse> = { outcome: 'unknown', error: '' }
  let callId = 0
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) callId = reader.counter()
    else if (tag === 18) readDeliverResponse(reader, response)
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
  return { type: 'deliveryAnswer', callId, response }
}

/** Reads the answer to a check-back; one without a response is `unknown`. */
export function readCheckBackAnswer(reader: ProtoReader): ServiceItem {
  const response: Draft<CheckBackResponse> = { resolution: 'unknown', bodies: [], error: '' }
  let callId = 0
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) callId = reader.counter()
    else if (tag === 18) readCheckBackResponse(reader, response)
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
  return { type: 'checkBackAnswer', callId, response }
}

/** Reads the answer to a call of a step; one without a response is `unknown`. */
export function readStepAnswer(reader: ProtoReader): ServiceItem {
  const response = stepResponseDraft()
  let callId = 0
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) callId = reader.counter()
    else if (tag === 18) readStepResponse(reader, response)
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
  return { type: 'stepAnswer', callId, response }
}

/** Reads that nobody was there to take a call. */
export function readNoSession(reader: ProtoReader): ServiceItem {
  let callId = 0
  let error = ''
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) callId = reader.counter()
    else if (tag === 18) error = reader.text()
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
  return { type: 'noSession', callId, error }
}
