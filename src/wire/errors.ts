/**
 * The one place that maps errors to gRPC statuses and to HTTP with the Connect protocol, total both ways.
 *
 * On both ways an `escrow.v1.Error` travels along as a detail (gRPC: `grpc-status-details-bin`, as AIP-193 has it;
 * Connect: `details`), with the remedy among its details. For whoever reads no details, code and remedy stand in the
 * headers `escrow-code` and `escrow-remedy`, and around the message. Only where none of these came, as from a proxy, the
 * code is guessed from the status.
 */
import { create, fromBinary, toBinary, toJson } from '@bufbuild/protobuf'
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { Metadata, type StatusObject, status } from '@grpc/grpc-js'
import { type ErrorCode, type ErrorDetails, EscrowError, isErrorCode } from '../core/errors.ts'
import { type Error as ErrorMessage, ErrorSchema } from './gen/escrow/v1/session_pb.ts'

/**
 * The status of each code. What the caller must change is never RESOURCE_EXHAUSTED or UNAVAILABLE, which clients repeat
 * by themselves; what is uncertain is UNKNOWN, which they don't.
 */
const STATUS = {
  invalidArgument: status.INVALID_ARGUMENT,
  malformed: status.INVALID_ARGUMENT,
  tooLarge: status.OUT_OF_RANGE,
  unknownNamespace: status.FAILED_PRECONDITION,
  unknownChecker: status.FAILED_PRECONDITION,
  unknownDestination: status.FAILED_PRECONDITION,
  notFound: status.NOT_FOUND,
  expired: status.NOT_FOUND,
  idReused: status.ALREADY_EXISTS,
  orderingKeyMismatch: status.INVALID_ARGUMENT,
  bodiesMissing: status.INVALID_ARGUMENT,
  resolutionConflict: status.FAILED_PRECONDITION,
  notParked: status.FAILED_PRECONDITION,
  unknownExecution: status.NOT_FOUND,
  possibleDuplicate: status.FAILED_PRECONDITION,
  invalidSaga: status.INVALID_ARGUMENT,
  unknownSaga: status.NOT_FOUND,
  unknownVersion: status.NOT_FOUND,
  unknownStep: status.FAILED_PRECONDITION,
  unknownSignal: status.INVALID_ARGUMENT,
  definitionChanged: status.FAILED_PRECONDITION,
  noMigration: status.FAILED_PRECONDITION,
  migrationFailed: status.FAILED_PRECONDITION,
  pastPivot: status.FAILED_PRECONDITION,
  alreadyEnded: status.FAILED_PRECONDITION,
  notDurable: status.FAILED_PRECONDITION,
  brokerRefused: status.FAILED_PRECONDITION,
  unsupported: status.UNIMPLEMENTED,
  unauthorized: status.PERMISSION_DENIED,
  wouldNotShareTransaction: status.FAILED_PRECONDITION,
  barrierRefused: status.FAILED_PRECONDITION,
  localTransactionFailed: status.FAILED_PRECONDITION,
  overloaded: status.RESOURCE_EXHAUSTED,
  noSession: status.UNAVAILABLE,
  definitionMissing: status.UNAVAILABLE,
  notOwner: status.UNAVAILABLE,
  storeUnavailable: status.UNAVAILABLE,
  brokerUnavailable: status.UNAVAILABLE,
  shuttingDown: status.UNAVAILABLE,
  disconnected: status.UNAVAILABLE,
  deadlineExceeded: status.DEADLINE_EXCEEDED,
  uncertain: status.UNKNOWN,
  storeCorrupt: status.DATA_LOSS,
  storeInUse: status.FAILED_PRECONDITION,
  storeFormat: status.FAILED_PRECONDITION,
  internal: status.INTERNAL,
} as const satisfies Record<ErrorCode, status>

/**
 * What a status means that came without a code of ours. The library itself answers RESOURCE_EXHAUSTED to what is over
 * the transport's limit, and UNAVAILABLE or INTERNAL also where the connection broke after the request was sent.
 */
const GUESS: Record<number, ErrorCode> = {
  [status.CANCELLED]: 'uncertain',
  [status.UNKNOWN]: 'uncertain',
  [status.INVALID_ARGUMENT]: 'invalidArgument',
  [status.DEADLINE_EXCEEDED]: 'uncertain',
  [status.NOT_FOUND]: 'notFound',
  [status.ALREADY_EXISTS]: 'idReused',
  [status.PERMISSION_DENIED]: 'unauthorized',
  [status.RESOURCE_EXHAUSTED]: 'tooLarge',
  [status.FAILED_PRECONDITION]: 'unsupported',
  [status.ABORTED]: 'uncertain',
  [status.OUT_OF_RANGE]: 'tooLarge',
  [status.UNIMPLEMENTED]: 'unsupported',
  [status.INTERNAL]: 'uncertain',
  [status.UNAVAILABLE]: 'uncertain',
  [status.DATA_LOSS]: 'storeCorrupt',
  [status.UNAUTHENTICATED]: 'unauthorized',
}

/** Name and HTTP status of each gRPC status in the Connect protocol (connectrpc.com/docs/protocol, "Error codes"). */
const CONNECT: Record<number, readonly [name: string, httpStatus: number]> = {
  [status.CANCELLED]: ['canceled', 499],
  [status.UNKNOWN]: ['unknown', 500],
  [status.INVALID_ARGUMENT]: ['invalid_argument', 400],
  [status.DEADLINE_EXCEEDED]: ['deadline_exceeded', 504],
  [status.NOT_FOUND]: ['not_found', 404],
  [status.ALREADY_EXISTS]: ['already_exists', 409],
  [status.PERMISSION_DENIED]: ['permission_denied', 403],
  [status.RESOURCE_EXHAUSTED]: ['resource_exhausted', 429],
  [status.FAILED_PRECONDITION]: ['failed_precondition', 400],
  [status.ABORTED]: ['aborted', 409],
  [status.OUT_OF_RANGE]: ['out_of_range', 400],
  [status.UNIMPLEMENTED]: ['unimplemented', 501],
  [status.INTERNAL]: ['internal', 500],
  [status.UNAVAILABLE]: ['unavailable', 503],
  [status.DATA_LOSS]: ['data_loss', 500],
  [status.UNAUTHENTICATED]: ['unauthenticated', 401],
}

/** More of a message than this is cut: it travels in headers. */
const MESSAGE_CHARS_MAX = 1024
const TYPE_URL = 'type.googleapis.com/'

/** An error as a gRPC server ends a call with it. */
export function errorToGrpc(error: EscrowError): Omit<StatusObject, 'metadata'> & { metadata: Metadata } {
  const metadata = new Metadata()
  for (const [name, value] of Object.entries(errorHeaders(error))) metadata.set(name, value)
  const code = STATUS[error.code]
  const message = toMessage(error)
  metadata.set('grpc-status-details-bin', Buffer.from(statusBytes(code, error, message)))
  return { code, details: textOf(error, message), metadata }
}

/** What a gRPC client got, as an error of ours. Total. */
export function errorFromGrpc(thrown: unknown): EscrowError {
  if (thrown instanceof EscrowError || !isStatus(thrown)) return EscrowError.from(thrown)
  const [bytes] = thrown.metadata?.get('grpc-status-details-bin') ?? []
  const detail = bytes instanceof Buffer ? errorOfStatus(bytes) : undefined
  if (detail !== undefined && isErrorCode(detail.code)) return fromMessage(detail, thrown)
  const code = thrown.metadata?.get('escrow-code')[0]
  if (typeof code === 'string' && isErrorCode(code))
    return new EscrowError(code, thrown.details, { cause: thrown })
  return new EscrowError(GUESS[thrown.code] ?? 'uncertain', thrown.details, {
    details: { grpcStatus: status[thrown.code] ?? String(thrown.code) },
    cause: thrown,
  })
}

/** An error as HTTP answers it: its status, its headers, and its body in the Connect protocol's JSON. */
export interface HttpError {
  readonly httpStatus: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** An error as an HTTP server ends a request with it. */
export function errorToHttp(error: EscrowError): HttpError {
  const [code, httpStatus] = CONNECT[STATUS[error.code]] as readonly [string, number]
  const message = toMessage(error)
  const detail = {
    type: ErrorSchema.typeName,
    debug: toJson(ErrorSchema, message),
    value: Buffer.from(toBinary(ErrorSchema, message)).toString('base64').replace(/=+$/, ''),
  }
  return {
    httpStatus,
    headers: errorHeaders(error),
    body: JSON.stringify({ code, message: textOf(error, message), details: [detail] }),
  }
}

/** What an HTTP client got that was no success, as an error of ours. Total: the body may be anything. */
export function errorFromHttp(httpStatus: number, body: string): EscrowError {
  const parsed = parseJson(body)
  const detail = detailOf(parsed)
  if (detail !== undefined && isErrorCode(detail.code)) return fromMessage(detail, undefined)
  const name = parsed?.code
  const known = Object.entries(CONNECT).find(([, row]) =>
    typeof name === 'string' ? row[0] === name : row[1] === httpStatus,
  )
  const code = (known && GUESS[Number(known[0])]) ?? 'uncertain'
  const message = typeof parsed?.message === 'string' ? parsed.message : `HTTP ${httpStatus}`
  return new EscrowError(code, message.slice(0, MESSAGE_CHARS_MAX), {
    details: { httpStatus: String(httpStatus) },
  })
}

const errorHeaders = (error: EscrowError): Record<string, string> => ({
  'escrow-code': error.code,
  'escrow-remedy': error.remedy,
})

/** All that there is to say in one line: many clients and tools show nothing else. */
const textOf = (error: EscrowError, { message }: ErrorMessage): string =>
  `${error.code}: ${message} -- ${error.remedy}`

function toMessage(error: EscrowError): ErrorMessage {
  return create(ErrorSchema, {
    code: error.code,
    message: error.message.slice(0, MESSAGE_CHARS_MAX).toWellFormed(),
    retryable: error.retryable,
    details: { ...error.details, remedy: error.remedy },
  })
}

function fromMessage(message: ErrorMessage, cause: unknown): EscrowError {
  const { remedy: _, ...details } = message.details as ErrorDetails & { remedy?: string }
  return new EscrowError(message.code as ErrorCode, message.message, { details, cause })
}

/** A google.rpc.Status {code = 1, message = 2, details = 3: Any {type_url = 1, value = 2}}: too little for a schema. */
function statusBytes(code: number, error: EscrowError, message: ErrorMessage): Uint8Array {
  const any = new BinaryWriter()
    .tag(1, WireType.LengthDelimited)
    .string(TYPE_URL + ErrorSchema.typeName)
    .tag(2, WireType.LengthDelimited)
    .bytes(toBinary(ErrorSchema, message))
    .finish()
  return new BinaryWriter()
    .tag(1, WireType.Varint)
    .int32(code)
    .tag(2, WireType.LengthDelimited)
    .string(textOf(error, message))
    .tag(3, WireType.LengthDelimited)
    .bytes(any)
    .finish()
}

function errorOfStatus(bytes: Uint8Array): ErrorMessage | undefined {
  try {
    for (const detail of fieldsOf(bytes).filter(([number]) => number === 3)) {
      const any = new Map(fieldsOf(detail[1]))
      const type = Buffer.from(any.get(1) ?? []).toString()
      if (type === TYPE_URL + ErrorSchema.typeName)
        return fromBinary(ErrorSchema, any.get(2) ?? new Uint8Array())
    }
  } catch {
    // Somebody else's bytes under a standard name: the status alone has to do.
  }
  return undefined
}

function fieldsOf(bytes: Uint8Array): (readonly [number: number, value: Uint8Array])[] {
  const reader = new BinaryReader(bytes)
  const fields: (readonly [number, Uint8Array])[] = []
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag()
    if (type === WireType.LengthDelimited) fields.push([number, reader.bytes()])
    else reader.skip(type, number)
  }
  return fields
}

interface ConnectBody {
  readonly code?: unknown
  readonly message?: unknown
  readonly details?: unknown
}

function parseJson(body: string): ConnectBody | undefined {
  try {
    const parsed: unknown = JSON.parse(body)
    return typeof parsed === 'object' && parsed !== null ? parsed : undefined
  } catch {
    return undefined
  }
}

function detailOf(body: ConnectBody | undefined): ErrorMessage | undefined {
  if (!Array.isArray(body?.details)) return undefined
  for (const detail of body.details as { type?: unknown; value?: unknown }[]) {
    if (detail?.type !== ErrorSchema.typeName || typeof detail.value !== 'string') continue
    try {
      return fromBinary(ErrorSchema, Buffer.from(detail.value, 'base64'))
    } catch {
      // Not what it says it is: the code and the status have to do.
    }
  }
  return undefined
}

function isStatus(thrown: unknown): thrown is { code: number; details: string; metadata?: Metadata } {
  return thrown instanceof Error && 'code' in thrown && typeof thrown.code === 'number' && 'details' in thrown
}
