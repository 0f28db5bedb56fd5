/** Every method of CoordinatorService as gRPC and HTTP both offer it: the door in front of the engine. */
import { create, type DescMessage, type DescMethod, type MessageShape } from '@bufbuild/protobuf'
import type { Operation, PrepareRequest, StartRequest } from '../core/api.ts'
import type { TraceContext } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import { parseName, parseNamespace } from '../core/ids.ts'
import { parseListenerUrl } from '../core/listener-url.ts'
import type { Runtime } from '../core/runtime.ts'
import type { ClusterView, Coordination } from '../engine/coordination.ts'
import {
  OPERATION_SCHEMAS,
  registrationFromProto,
  requestFromProto,
  responseToProto,
} from '../wire/convert.ts'
import {
  CoordinatorService,
  ListNodesResponseSchema,
  NodeState,
  type RegisterRequest,
  RegisterResponseSchema,
} from '../wire/gen/escrow/v1/coordinator_pb.ts'
import { PatientRequests } from './patient-requests.ts'

/** The service whose methods these are. */
export const COORDINATOR_SERVICE = CoordinatorService

/** How a call came, beside its message. */
export interface UnaryContext {
  /** How long the caller waits from now, in milliseconds; undefined if it didn't say. */
  readonly timeoutMs: number | undefined
  /** The trace that the call belongs to, by its headers. */
  readonly trace: TraceContext
}

type AnyMessage = MessageShape<DescMessage>

/** One method. */
export interface UnaryMethod {
  readonly desc: DescMethod
  /** As HTTP and gRPC name it: `/escrow.v1.CoordinatorService/Prepare`. */
  readonly path: string
  /** Answers a message of `desc.input` with one of `desc.output`. Rejects with `EscrowError` only. */
  call(message: AnyMessage, context: UnaryContext): Promise<AnyMessage>
}

/** What the door is made of. */
export interface UnaryOptions {
  readonly coordination: Coordination
  readonly runtime: Pick<Runtime, 'now' | 'random' | 'setTimer'>
  /** Calls that may be unanswered at once, over all connections; more are refused as `overloaded`. */
  readonly inFlightMax: number
  /** From when on every call is refused with `shuttingDown`. */
  isStopping(): boolean
}

/** How long a call waits that doesn't say: as long as an operation may take when the store is slow. */
const TIMEOUT_MS = 30_000
/** The same for `Wait`, whose answer takes as long as the transaction. */
const WAIT_TIMEOUT_MS = 300_000
/** No call waits longer: what it holds in memory is bounded in time too. */
const TIMEOUT_MS_MAX = 3_600_000
/** The engine is told a little less than the caller's time, so that its word is there before the caller gives up. */
const ANSWER_MARGIN_MS = 20

/** The methods, by path. */
export function unaryMethods(options: UnaryOptions): ReadonlyMap<string, UnaryMethod> {
  const { coordination, runtime, inFlightMax } = options
  const requests = new PatientRequests({
    coordination,
    runtime,
    // Others must still find a place.
    waitingMax: Math.ceil(inFlightMax / 2),
    isStopping: () => options.isStopping(),
  })
  let inFlight = 0

  /** Counts until the engine has answered, whoever still listens: a caller that hangs up frees nothing. */
  async function admit<Response>(work: () => Promise<Response>): Promise<Response> {
    if (options.isStopping()) throw new EscrowError('shuttingDown', 'this coordinator takes no new requests')
    if (inFlight >= inFlightMax) {
      throw new EscrowError('overloaded', `${inFlight} calls are unanswered, the limit inFlightMax`, {
        details: { limit: 'inFlightMax', max: String(inFlightMax) },
      })
    }
    inFlight += 1
    try {
      return await work()
    } catch (thrown) {
      throw EscrowError.from(thrown)
    } finally {
      inFlight -= 1
    }
  }

  const operation = <Op extends Operation>(op: Op, desc: DescMethod): UnaryMethod => ({
    desc,
    path: pathOf(desc),
    call: (message, context) =>
      admit(async () => {
        const deadlineMs = deadlineOf(op, context.timeoutMs, runtime.now())
        let request = requestFromProto(op, message as never)
        if (op === 'prepare' || op === 'startSaga') {
          request = withTrace(request as PrepareRequest | StartRequest, context.trace) as typeof request
        }
        return responseToProto(op, await requests.request(op, request, deadlineMs)) as AnyMessage
      }),
  })

  const register: UnaryMethod = {
    desc: COORDINATOR_SERVICE.method.register,
    path: pathOf(COORDINATOR_SERVICE.method.register),
    call: (message) =>
      admit(async () => {
        await registerService(coordination, message as RegisterRequest)
        return create(RegisterResponseSchema)
      }),
  }

  const listNodes: UnaryMethod = {
    desc: COORDINATOR_SERVICE.method.listNodes,
    path: pathOf(COORDINATOR_SERVICE.method.listNodes),
    call: () => admit(async () => clusterToProto(coordination.nodes())),
  }

  const operations = Object.keys(OPERATION_SCHEMAS) as Operation[]
  const methods = operations.map((op) => operation(op, methodOf(op)))
  return new Map([...methods, register, listNodes].map((method) => [method.path, method]))
}

/** The refusal of a request over its limit; `bytes` is what is known of its size. */
export function requestTooLarge(bytes: number, requestBytesMax: number): EscrowError {
  return new EscrowError(
    'tooLarge',
    `the request has ${bytes} bytes or more, over the limit requestBytesMax of ${requestBytesMax}`,
    {
      details: { limit: 'requestBytesMax', max: String(requestBytesMax), actual: String(bytes) },
    },
  )
}

/** The method of an operation; mostly they have the same name. */
function methodOf(op: Operation): DescMethod {
  const { method } = COORDINATOR_SERVICE
  switch (op) {
    case 'signal':
      return method.signalSaga
    case 'cancel':
      return method.cancelSaga
    case 'complete':
      return method.completeStep
    default:
      return method[op]
  }
}

const pathOf = (desc: DescMethod): string => `/${desc.parent.typeName}/${desc.name}`

/** The wall clock at which the engine must have answered. Throws `deadlineExceeded` at the door. */
function deadlineOf(op: Operation, timeoutMs: number | undefined, nowMs: number): number {
  if (timeoutMs === undefined) return nowMs + (op === 'wait' ? WAIT_TIMEOUT_MS : TIMEOUT_MS)
  if (timeoutMs <= 0)
    throw new EscrowError('deadlineExceeded', 'the deadline had passed before the request came')
  const boundMs = Math.min(timeoutMs, TIMEOUT_MS_MAX)
  return nowMs + boundMs - Math.min(ANSWER_MARGIN_MS, Math.floor(boundMs / 10))
}

function withTrace<Request extends PrepareRequest | StartRequest>(
  request: Request,
  trace: TraceContext,
): Request {
  const own = request.trace
  const hasOwn = own !== undefined && (own.traceparent !== '' || own.baggage !== '')
  return hasOwn ? request : { ...request, trace }
}

const STATES = { here: NodeState.HERE, leaving: NodeState.LEAVING, silent: NodeState.SILENT }

function clusterToProto({ nodes, logs }: ClusterView): AnyMessage {
  return create(ListNodesResponseSchema, {
    logs,
    nodes: nodes.map(({ node, state, startedAtMs, silentMs, logs: had }) => ({
      node,
      state: STATES[state],
      startedAtMs: BigInt(startedAtMs),
      silentMs: BigInt(Math.round(silentMs)),
      logs: had.map(({ log, epoch, sinceMs, head, checkpointed, asOfMs }) => ({
        log,
        epoch: BigInt(epoch),
        sinceMs: BigInt(sinceMs),
        head: BigInt(head),
        checkpointed: BigInt(checkpointed),
        asOfMs: BigInt(asOfMs),
      })),
    })),
  })
}

async function registerService(coordination: Coordination, message: RegisterRequest): Promise<void> {
  const namespace = parseNamespace(message.namespace)
  const service = parseName('service', message.service)
  const registration = registrationFromProto(message)
  for (const handler of registration.handlers) parseName('handler', handler)
  for (const checker of registration.checkers) parseName('checker', checker)
  for (const step of registration.steps ?? []) parseName('step', step)
  // Without a URL it doesn't listen: the names are made known, and where it listened before is taken back.
  const url = message.url === '' ? '' : parseListenerUrl(message.url).url
  return coordination.registerUrl(namespace, service, url, registration)
}
