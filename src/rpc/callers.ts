/**
 * Calls to participants that listen: a delivery, a check-back or a step each is one request to
 * `escrow.v1.ParticipantService`, over gRPC or over HTTP with JSON. The outcome is the enum in the answer, and nothing else is:
 *
 * | what happened                                                    | outcome     |
 * |------------------------------------------------------------------|-------------|
 * | no connection came about: nothing was sent                       | `noSession` |
 * | the window is full: nothing was sent                             | `noSession` |
 * | an answer with an outcome                                        | that one    |
 * | an answer without one, with an unknown one, or that is nonsense  | `unknown`   |
 * | any error, redirect or other status, whatever it says            | `unknown`   |
 * | time-out, or a connection that broke after it had come about     | `unknown`   |
 */
import {
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonValue,
  type MessageShape,
  toBinary,
  toJsonString,
} from '@bufbuild/protobuf'
import type { CheckBackRequest, DeliverRequest, StepRequest } from '../core/api.ts'
import { traceHeaders } from '../core/envelope.ts'
import { unreachable } from '../core/errors.ts'
import { parseListenerUrl } from '../core/listener-url.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../engine/outlet.ts'
import type { StepOutcome } from '../engine/step-outlet.ts'
import {
  checkBackRequestToProto,
  checkBackResponseFromProto,
  deliverRequestToProto,
  deliverResponseFromProto,
  stepRequestToProto,
  stepResponseFromProto,
} from '../wire/convert.ts'
import {
  CheckBackRequestSchema,
  CheckBackResponseSchema,
  DeliverRequestSchema,
  DeliverResponseSchema,
  ParticipantService,
  StepRequestSchema,
  StepResponseSchema,
} from '../wire/gen/escrow/v1/participant_pb.ts'
import type { CallTransport, OutgoingCall } from './call-transport.ts'
import { GrpcTransport } from './grpc-transport.ts'
import { HttpTransport } from './http-transport.ts'
import type { Caller } from './listener-receiver.ts'
import { boundedStepResponse, unknownStep } from './step-response.ts'

/** How a participant that listens is called. */
export interface CallerOptions {
  /** Calls that may be unanswered at once. Default 256: what a session takes by default. */
  readonly callsMax?: number | undefined
  /** Wall clock, in milliseconds. */
  now(): number
}

const CALLS_MAX = 256
const ERROR_CHARS_MAX = 1024

/** Calls one participant that listens. Each `done` is called exactly once, later than the call. */
export class ListenerCaller implements Caller {
  readonly #transport: CallTransport
  readonly #callsMax: number
  #inFlight = 0

  /** Throws `invalidArgument` for a URL that isn't `grpc://host:port` or `http://host:port`. */
  constructor(url: string, options: CallerOptions) {
    const listener = parseListenerUrl(url)
    this.#callsMax = options.callsMax ?? CALLS_MAX
    this.#transport =
      listener.protocol === 'grpc'
        ? new GrpcTransport(listener, options.now)
        : new HttpTransport(listener, this.#callsMax)
  }

  /** How many more calls may be sent now. */
  get room(): number {
    return this.#callsMax - this.#inFlight
  }

  deliver(request: DeliverRequest, done: (outcome: DeliveryOutcome) => void): void {
    this.#call({
      name: ParticipantService.method.deliver.name,
      request,
      encode: () => this.#encode(DeliverRequestSchema, deliverRequestToProto(request)),
      decode: (body) => deliverResponseFromProto(this.#decode(DeliverResponseSchema, body)),
      unknown: (error): DeliveryOutcome => ({ outcome: 'unknown', error }),
      done,
    })
  }

  checkBack(request: CheckBackRequest, done: (outcome: CheckBackOutcome) => void): void {
    this.#call({
      name: ParticipantService.method.checkBack.name,
      request,
      encode: () => this.#encode(CheckBackRequestSchema, checkBackRequestToProto(request)),
      decode: (body) => checkBackResponseFromProto(this.#decode(CheckBackResponseSchema, body)),
      unknown: (error): CheckBackOutcome => ({ resolution: 'unknown', bodies: [], error }),
      done,
    })
  }

  step(request: StepRequest, done: (outcome: StepOutcome) => void): void {
    this.#call({
      name: ParticipantService.method.step.name,
      request,
      encode: () => this.#encode(StepRequestSchema, stepRequestToProto(request)),
      decode: (body) => boundedStepResponse(stepResponseFromProto(this.#decode(StepResponseSchema, body))),
      unknown: (error): StepOutcome => unknownStep(error),
      done,
    })
  }

  /** Ends what is under way as unknown. Nothing may be sent afterwards. */
  close(): void {
    this.#transport.close()
  }

  #call<Outcome>(call: Call<Outcome>): void {
    const noSession = (error: string) =>
      call.done({ outcome: 'noSession', error: error.slice(0, ERROR_CHARS_MAX) })
    if (this.room <= 0) {
      queueMicrotask(() => noSession(`${this.#inFlight} calls to this participant are unanswered, its limit`))
      return
    }
    const { request } = call
    let body: OutgoingCall['body']
    try {
      body = call.encode()
    } catch (thrown) {
      const why = `the call can't be written: ${(thrown as Error).message}`
      queueMicrotask(() => call.done(call.unknown(why.slice(0, ERROR_CHARS_MAX))))
      return
    }
    this.#inFlight += 1
    const path = `/${ParticipantService.typeName}/${call.name}`
    const headers = traceHeaders(request.trace)
    this.#transport.send({ path, headers, timeoutMs: request.timeoutMs, body }, (result) => {
      this.#inFlight -= 1
      switch (result.end) {
        case 'notSent':
          return noSession(result.error)
        case 'unknown':
          return call.done(call.unknown(result.error.slice(0, ERROR_CHARS_MAX)))
        case 'answer':
          return call.done(outcomeOf(call, result.body))
        default:
          return unreachable(result)
      }
    })
  }

  #encode<Desc extends DescMessage>(desc: Desc, message: MessageShape<Desc>): Uint8Array | string {
    return this.#transport.format === 'json' ? toJsonString(desc, message) : toBinary(desc, message)
  }

  #decode<Desc extends DescMessage>(desc: Desc, body: Buffer): MessageShape<Desc> {
    if (this.#transport.format === 'binary') return fromBinary(desc, body)
    // A field that a newer participant tells is its own affair; an outcome that isn't known fails below.
    return fromJson(desc, JSON.parse(body.toString()) as JsonValue, { ignoreUnknownFields: true })
  }
}

interface Call<Outcome> {
  readonly name: string
  readonly request: DeliverRequest | CheckBackRequest | StepRequest
  encode(): Uint8Array | string
  decode(body: Buffer): Outcome
  unknown(error: string): Outcome
  done(outcome: Outcome | { readonly outcome: 'noSession'; readonly error: string }): void
}

function outcomeOf<Outcome>(call: Call<Outcome>, body: Buffer): Outcome {
  try {
    return call.decode(body)
  } catch (thrown) {
    return call.unknown(`the answer can't be read: ${(thrown as Error).message}`.slice(0, ERROR_CHARS_MAX))
  }
}
