/** Frames as protobuf-es writes and reads them: what the hand-written codec is held against. */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { OperationRequest, OperationResponse } from '../../src/core/api.ts'
import type { EscrowError } from '../../src/core/errors.ts'
import {
  checkBackRequestFromProto,
  checkBackRequestToProto,
  checkBackResponseFromProto,
  checkBackResponseToProto,
  deliverRequestFromProto,
  deliverRequestToProto,
  deliverResponseFromProto,
  deliverResponseToProto,
  registrationFromProto,
  requestFromProto,
  requestToProto,
  responseFromProto,
  responseToProto,
  stepRequestFromProto,
  stepRequestToProto,
  stepResponseFromProto,
  stepResponseToProto,
} from '../../src/wire/convert.ts'
import {
  type ConnectRequest,
  ConnectRequestSchema,
  type ConnectResponse,
  ConnectResponseSchema,
} from '../../src/wire/gen/escrow/v1/session_pb.ts'
import { errorFromProto } from '../../src/wire/handshake.ts'
import type { CoordinatorItem, ServiceItem } from '../../src/wire/items.ts'

const errorInit = ({ code, message, retryable, details }: EscrowError) => ({
  code,
  message,
  retryable,
  details,
})
const registrationInit = (registration: {
  checkers: readonly string[]
  handlers: readonly string[]
  steps?: readonly string[] | undefined
  databaseId: string
}) => ({
  checkers: [...registration.checkers],
  handlers: [...registration.handlers],
  steps: [...(registration.steps ?? [])],
  databaseId: registration.databaseId,
})

/** A frame of a service's items, by protobuf-es. */
export function protoServiceFrame(items: readonly ServiceItem[]): Uint8Array {
  const frame = create(ConnectRequestSchema, { format: 1 })
  for (const item of items) {
    const part: Parameters<typeof create<typeof ConnectRequestSchema>>[1] = {}
    if (item.type === 'command') {
      const value = requestToProto(item.op, item.request)
      part.commands = [
        {
          commandId: BigInt(item.commandId),
          timeoutMs: item.timeoutMs,
          operation: { case: item.op, value } as never,
        },
      ]
    } else if (item.type === 'deliveryAnswer') {
      part.deliveryAnswers = [
        { callId: BigInt(item.callId), response: deliverResponseToProto(item.response) },
      ]
    } else if (item.type === 'checkBackAnswer') {
      part.checkBackAnswers = [
        { callId: BigInt(item.callId), response: checkBackResponseToProto(item.response) },
      ]
    } else if (item.type === 'stepAnswer') {
      part.stepAnswers = [{ callId: BigInt(item.callId), response: stepResponseToProto(item.response) }]
    } else if (item.type === 'register') {
      part.registrations = [{ number: item.number, ...registrationInit(item.registration) }]
    } else part.hello = { ...item, registration: registrationInit(item.registration) } as never
    const more = create(ConnectRequestSchema, part)
    frame.commands.push(...more.commands)
    frame.deliveryAnswers.push(...more.deliveryAnswers)
    frame.checkBackAnswers.push(...more.checkBackAnswers)
    frame.stepAnswers.push(...more.stepAnswers)
    frame.registrations.push(...more.registrations)
    if (more.hello) frame.hello = more.hello
  }
  return toBinary(ConnectRequestSchema, frame)
}

/** A service's items of a frame, by protobuf-es: class by class. */
export function protoServiceItems(bytes: Uint8Array): ServiceItem[] {
  const frame: ConnectRequest = fromBinary(ConnectRequestSchema, bytes)
  const items: ServiceItem[] = []
  for (const { commandId, timeoutMs, operation } of frame.commands) {
    if (operation.case === undefined) throw new Error('no operation')
    const request = requestFromProto(operation.case, operation.value as never)
    items.push({
      type: 'command',
      commandId: Number(commandId),
      timeoutMs,
      ...({ op: operation.case, request } as OperationRequest),
    })
  }
  for (const { callId, response } of frame.deliveryAnswers) {
    items.push({
      type: 'deliveryAnswer',
      callId: Number(callId),
      response: deliverResponseFromProto(response!),
    })
  }
  for (const { callId, response } of frame.checkBackAnswers) {
    items.push({
      type: 'checkBackAnswer',
      callId: Number(callId),
      response: checkBackResponseFromProto(response!),
    })
  }
  for (const { callId, response } of frame.stepAnswers) {
    items.push({ type: 'stepAnswer', callId: Number(callId), response: stepResponseFromProto(response) })
  }
  for (const message of frame.registrations) {
    items.push({ type: 'register', number: message.number, registration: registrationFromProto(message) })
  }
  if (frame.hello) {
    const { namespace, service, deliveriesMax, checkBacksMax, stepsMax, previousSession, registration } =
      frame.hello
    items.push({
      type: 'hello',
      namespace,
      service,
      deliveriesMax,
      checkBacksMax,
      stepsMax,
      previousSession,
      registration: registrationFromProto(registration!),
    })
  }
  return items
}

/** A frame of a coordinator's items, by protobuf-es. */
export function protoCoordinatorFrame(items: readonly CoordinatorItem[]): Uint8Array {
  const frame = create(ConnectResponseSchema, { format: 1 })
  for (const item of items) {
    const part: Parameters<typeof create<typeof ConnectResponseSchema>>[1] = {}
    if (item.type === 'reply') {
      const value = responseToProto(item.op, item.response)
      part.replies = [{ commandId: BigInt(item.commandId), result: { case: item.op, value } as never }]
    } else if (item.type === 'failure') {
      const value = errorInit(item.error)
      part.replies = [{ commandId: BigInt(item.commandId), result: { case: 'error', value } }]
    } else if (item.type === 'delivery') {
      part.deliveries = [{ callId: BigInt(item.callId), request: deliverRequestToProto(item.request) }]
    } else if (item.type === 'checkBack') {
      part.checkBacks = [{ callId: BigInt(item.callId), request: checkBackRequestToProto(item.request) }]
    } else if (item.type === 'step') {
      part.steps = [{ callId: BigInt(item.callId), request: stepRequestToProto(item.request) }]
    } else if (item.type === 'registered') {
      part.registered = [{ number: item.number, ...(item.error ? { error: errorInit(item.error) } : {}) }]
    } else if (item.type === 'welcome') {
      part.welcome = { ...item, routings: [...item.routings], limits: { ...item.limits } } as never
    } else part.drain = true
    const more = create(ConnectResponseSchema, part)
    frame.replies.push(...more.replies)
    frame.deliveries.push(...more.deliveries)
    frame.checkBacks.push(...more.checkBacks)
    frame.steps.push(...more.steps)
    frame.registered.push(...more.registered)
    if (more.welcome) frame.welcome = more.welcome
    if (more.drain) frame.drain = true
  }
  return toBinary(ConnectResponseSchema, frame)
}

/** A coordinator's items of a frame, by protobuf-es: class by class. */
export function protoCoordinatorItems(bytes: Uint8Array): CoordinatorItem[] {
  const frame: ConnectResponse = fromBinary(ConnectResponseSchema, bytes)
  const items: CoordinatorItem[] = []
  for (const { commandId, result } of frame.replies) {
    if (result.case === undefined) throw new Error('no result')
    if (result.case === 'error') {
      items.push({ type: 'failure', commandId: Number(commandId), error: errorFromProto(result.value) })
      continue
    }
    const response = responseFromProto(result.case, result.value as never)
    items.push({
      type: 'reply',
      commandId: Number(commandId),
      ...({ op: result.case, response } as OperationResponse),
    })
  }
  for (const { callId, request } of frame.deliveries) {
    items.push({ type: 'delivery', callId: Number(callId), request: deliverRequestFromProto(request!) })
  }
  for (const { callId, request } of frame.checkBacks) {
    items.push({ type: 'checkBack', callId: Number(callId), request: checkBackRequestFromProto(request!) })
  }
  for (const { callId, request } of frame.steps) {
    items.push({ type: 'step', callId: Number(callId), request: stepRequestFromProto(request!) })
  }
  for (const { number, error } of frame.registered) {
    items.push({ type: 'registered', number, error: error && errorFromProto(error) })
  }
  if (frame.welcome) {
    const { session, commandsMax, routings, limits } = frame.welcome
    const { $typeName: _, $unknown: __, ...plain } = limits!
    items.push({ type: 'welcome', session, commandsMax, routings, limits: plain })
  }
  if (frame.drain) items.push({ type: 'drain' })
  return items
}
