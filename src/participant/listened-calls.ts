import type { DescMessage, MessageShape } from '@bufbuild/protobuf'
import { EscrowError } from '../core/errors.ts'
import {
  checkBackRequestFromProto,
  checkBackResponseToProto,
  deliverRequestFromProto,
  deliverResponseToProto,
  stepRequestFromProto,
  stepResponseToProto,
} from '../wire/convert-participant.ts'
import {
  CheckBackRequestSchema,
  CheckBackResponseSchema,
  DeliverRequestSchema,
  DeliverResponseSchema,
  StepRequestSchema,
  StepResponseSchema,
} from '../wire/gen/escrow/v1/participant_pb.ts'
import type { Serving } from './serving.ts'

/** The bytes of the longest request, headers left out: a body of 1 MiB, in base64 where JSON carries it, with room to spare. */
export const REQUEST_BYTES_MAX = 4 << 20

/** How long a call may take that doesn't say. */
const TIMEOUT_MS = 30_000
const TIMEOUT_MS_MAX = 3_600_000

/** One method of ParticipantService, as gRPC and HTTP both offer it. */
export interface ListenedCall<Input extends DescMessage, Output extends DescMessage> {
  readonly name: string
  readonly path: string
  readonly input: Input
  readonly output: Output
  /** Answers exactly once, later or at once. Throws `invalidArgument`. */
  take(serving: Serving, message: MessageShape<Input>, done: (response: MessageShape<Output>) => void): void
}

const deliver: ListenedCall<typeof DeliverRequestSchema, typeof DeliverResponseSchema> = {
  name: 'Deliver',
  path: '/escrow.v1.ParticipantService/Deliver',
  input: DeliverRequestSchema,
  output: DeliverResponseSchema,
  take(serving, message, done) {
    const request = deliverRequestFromProto(message)
    serving.deliver(checked(request, 'handler', request.handler), (response) =>
      done(deliverResponseToProto(response)),
    )
  },
}

const checkBack: ListenedCall<typeof CheckBackRequestSchema, typeof CheckBackResponseSchema> = {
  name: 'CheckBack',
  path: '/escrow.v1.ParticipantService/CheckBack',
  input: CheckBackRequestSchema,
  output: CheckBackResponseSchema,
  take(serving, message, done) {
    const request = checkBackRequestFromProto(message)
    serving.checkBack(checked(request, 'checker', request.checker), (response) =>
      done(checkBackResponseToProto(response)),
    )
  },
}

const step: ListenedCall<typeof StepRequestSchema, typeof StepResponseSchema> = {
  name: 'Step',
  path: '/escrow.v1.ParticipantService/Step',
  input: StepRequestSchema,
  output: StepResponseSchema,
  take(serving, message, done) {
    const request = stepRequestFromProto(message)
    serving.step(checked(request, 'step', request.step), (response) => done(stepResponseToProto(response)))
  },
}

/** The methods of ParticipantService. */
export const CALLS: readonly ListenedCall<DescMessage, DescMessage>[] = [deliver, checkBack, step] as never

/** What to answer to a request that could not be read. */
export function readError(name: string, thrown: unknown): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const why = thrown instanceof Error ? thrown.message : String(thrown)
  return new EscrowError('malformed', `${name}: ${why}`, { cause: thrown })
}

/** A request that names what it is for, with a time-out within its bounds. Throws `invalidArgument`. */
function checked<Request extends { readonly executionId: string; readonly timeoutMs: number }>(
  request: Request,
  field: string,
  name: string,
): Request {
  need(field, name)
  need('execution_id', request.executionId)
  return { ...request, timeoutMs: bounded(request.timeoutMs) }
}

function need(field: string, value: string): void {
  if (value === '') throw new EscrowError('invalidArgument', `${field} is missing`)
}

function bounded(timeoutMs: number): number {
  return timeoutMs > 0 ? Math.min(timeoutMs, TIMEOUT_MS_MAX) : TIMEOUT_MS
}
