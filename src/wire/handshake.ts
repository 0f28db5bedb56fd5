/** What opens a session, and what is registered in it: rare, so through protobuf-es. */
import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf'
import type { Registration } from '../core/api.ts'
import { EscrowError, isErrorCode } from '../core/errors.ts'
import { registrationFromProto } from './convert-participant.ts'
import {
  type Error as ErrorProto,
  HelloSchema,
  RegisteredSchema,
  RegistrationSchema,
  RoutingsSchema,
  WelcomeSchema,
} from './gen/escrow/v1/session_pb.ts'
import type { CoordinatorItem, HelloItem, RegisterItem, WelcomeItem } from './items.ts'
import { malformed } from './proto-reader.ts'
import { checkUint32 } from './scalars.ts'

/** Reads a nested message through protobuf-es. Throws `malformed`. */
export function readMessage<Schema extends DescMessage>(
  schema: Schema,
  bytes: Uint8Array,
): MessageShape<Schema> {
  try {
    return fromBinary(schema, bytes)
  } catch (error) {
    throw malformed(`${schema.name}: ${(error as Error).message}`)
  }
}

const NO_NAMES = { checkers: [], handlers: [], steps: [], databaseId: '' }

const registrationInit = (registration: Registration) => ({
  checkers: [...registration.checkers],
  handlers: [...registration.handlers],
  steps: [...(registration.steps ?? [])],
  databaseId: registration.databaseId,
})

/** A hello, encoded. */
export const helloBytes = (item: HelloItem): Uint8Array =>
  toBinary(
    HelloSchema,
    create(HelloSchema, {
      namespace: item.namespace,
      service: item.service,
      deliveriesMax: checkUint32('deliveriesMax', item.deliveriesMax),
      checkBacksMax: checkUint32('checkBacksMax', item.checkBacksMax),
      stepsMax: checkUint32('stepsMax', item.stepsMax),
      previousSession: item.previousSession,
      registration: registrationInit(item.registration),
      ...item.node,
    }),
  )

/** The hello in the bytes. Throws `malformed`. */
export function helloOf(bytes: Uint8Array): HelloItem {
  const hello = readMessage(HelloSchema, bytes)
  return {
    type: 'hello',
    namespace: hello.namespace,
    service: hello.service,
    deliveriesMax: hello.deliveriesMax,
    checkBacksMax: hello.checkBacksMax,
    stepsMax: hello.stepsMax,
    previousSession: hello.previousSession,
    registration: registrationFromProto(hello.registration ?? NO_NAMES),
    node: hello.node === '' ? undefined : { node: hello.node, incarnation: hello.incarnation },
  }
}

/** A registration, encoded. */
export const registrationBytes = ({ number, registration, owner }: RegisterItem): Uint8Array =>
  toBinary(
    RegistrationSchema,
    create(RegistrationSchema, {
      number: checkUint32('number', number),
      ...registrationInit(registration),
      ...owner,
    }),
  )

/** The registration in the bytes. Throws `malformed`. */
export function registrationOf(bytes: Uint8Array): RegisterItem {
  const message = readMessage(RegistrationSchema, bytes)
  const { number, namespace, service } = message
  const owner = service === '' ? undefined : { namespace, service }
  return { type: 'register', number, registration: registrationFromProto(message), owner }
}

/** A welcome, encoded. */
export const welcomeBytes = (item: WelcomeItem): Uint8Array =>
  toBinary(
    WelcomeSchema,
    create(WelcomeSchema, {
      session: item.session,
      commandsMax: checkUint32('commandsMax', item.commandsMax),
      routings: [...item.routings],
      limits: { ...item.limits },
    }),
  )

/** The welcome in the bytes. Throws `malformed`. */
export function welcomeOf(bytes: Uint8Array): WelcomeItem {
  const { session, commandsMax, routings, limits } = readMessage(WelcomeSchema, bytes)
  if (limits === undefined) throw malformed('a welcome without limits')
  const { bodyBytesMax, headerBytesMax, messagesMax, transactionBytesMax, frameBytesMax } = limits
  return {
    type: 'welcome',
    session,
    commandsMax,
    routings,
    limits: { bodyBytesMax, headerBytesMax, messagesMax, transactionBytesMax, frameBytesMax },
  }
}

/** Routing parts, encoded. */
export const routingsBytes = (routings: readonly string[]): Uint8Array =>
  toBinary(RoutingsSchema, create(RoutingsSchema, { routings: [...routings] }))

/** The routing parts in the bytes. Throws `malformed`. */
export const routingsOf = (bytes: Uint8Array): Extract<CoordinatorItem, { type: 'routings' }> => ({
  type: 'routings',
  routings: readMessage(RoutingsSchema, bytes).routings,
})

/** The outcome of a registration in the bytes. Throws `malformed`. */
export function registeredOf(bytes: Uint8Array): Extract<CoordinatorItem, { type: 'registered' }> {
  const { number, error } = readMessage(RegisteredSchema, bytes)
  return { type: 'registered', number, error: error === undefined ? undefined : errorFromProto(error) }
}

/**
 * The error that a coordinator tells. One whose code only a newer version knows is `uncertain` if it may be tried again,
 * else `internal`, with the code in its details.
 */
export function errorFromProto(
  error: Pick<ErrorProto, 'code' | 'message' | 'retryable' | 'details'>,
): EscrowError {
  const { code, message, retryable, details } = error
  if (isErrorCode(code)) return new EscrowError(code, message, { details })
  return new EscrowError(
    retryable ? 'uncertain' : 'internal',
    `${code || 'an error without a code'}: ${message}`,
    {
      details: { ...details, code },
    },
  )
}
