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
import type { CallItem, CoordinatorItem, ServiceItem } from '../../src/wire/items.ts'

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

const callInit = ({ callId, databaseId }: CallItem) => ({
  callId: BigInt(callId),
  databaseId: databaseId ?? '',
})
const namedBy = ({ callId, databaseId }: { callId: bigint; databaseId: string }) => ({
  callId: Number(callId),
  databaseId: databaseId || undefined,
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
      const { number, registration, owner } = item
      part.registrations = [{ number, ...registrationInit(registration), ...owner }]
    } else if (item.type === 'noSession') {
      part.noSessions = [{ callId: BigInt(item.callId), error: item.error }]
    } else {
      const { node, registration, ...rest } = item
      part.hello = { ...rest, ...node, registration: registrationInit(registration) } as never
    }
    const more = create(ConnectRequestSchema, part)
    frame.commands.push(...more.commands)
    frame.deliveryAnswers.push(...more.deliveryAnswers)
    frame.checkBackAnswers.push(...more.checkBackAnswers)
    frame.stepAnswers.push(...more.stepAnswers)
    frame.registrations.push(...more.registrations)
    frame.noSessions.push(...more.noSessions)
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
    const { number, namespace, service } = message
    const owner = service === '' ? undefined : { namespace, service }
    items.push({ type: 'register', number, registration: registrationFromProto(message), owner })
  }
  for (const { callId, error } of frame.noSessions) {
    items.push({ type: 'noSession', callId: Number(callId), error })
  }
  if (frame.hello) {
    const { namespace, service, deliveriesMax, checkBacksMax, stepsMax, previousSession, registration } =
      frame.hello
    const { node, incarnation } = frame.hello
    items.push({
      type: 'hello',
      namespace,
      service,
      deliveriesMax,
      checkBacksMax,
      stepsMax,
      previousSession,
      registration: registrationFromProto(registration!),
      node: node === '' ? undefined : { node, incarnation },
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
      part.deliveries = [{ ...callInit(item), request: deliverRequestToProto(item.request) }]
    } else if (item.type === 'checkBack') {
      part.checkBacks = [{ ...callInit(item), request: checkBackRequestToProto(item.request) }]
    } else if (item.type === 'step') {
      part.steps = [{ ...callInit(item), request: stepRequestToProto(item.request) }]
    } else if (item.type === 'registered') {
      part.registered = [{ number: item.number, ...(item.error ? { error: errorInit(item.error) } : {}) }]
    } else if (item.type === 'welcome') {
      part.welcome = { ...item, routings: [...item.routings], limits: { ...item.limits } } as never
    } else if (item.type === 'routings') {
      part.routings = [{ routings: [...item.routings] }]
    } else part.drain = true
    const more = create(ConnectResponseSchema, part)
    frame.replies.push(...more.replies)
    frame.deliveries.push(...more.deliveries)
    frame.checkBacks.push(...more.checkBacks)
    frame.steps.push(...more.steps)
    frame.registered.push(...more.registered)
    frame.routings.push(...more.routings)
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
  for (const call of frame.deliveries) {
    items.push({ type: 'delivery', ...namedBy(call), request: deliverRequestFromProto(call.request!) })
  }
  for (const call of frame.checkBacks) {
    items.push({ type: 'checkBack', ...namedBy(call), request: checkBackRequestFromProto(call.request!) })
  }
  for (const call of frame.steps) {
    items.push({ type: 'step', ...namedBy(call), request: stepRequestFromProto(call.request!) })
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
  for (const { routings } of frame.routings) items.push({ type: 'routings', routings })
  return items
}
