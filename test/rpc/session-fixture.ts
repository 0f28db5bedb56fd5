/** A coordinator's session service on a real socket, over a coordination that is only pretended. */
import type { Operation, OperationRequest, Operations, Registration } from '../../src/core/api.ts'
import { DEFAULT_LIMITS, type Limits, NO_TRACE } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import type { Destination, Namespace } from '../../src/core/ids.ts'
import type {
  ClusterView,
  Coordination,
  OpenedSession,
  Reply,
  RequestOptions,
} from '../../src/engine/coordination.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../../src/engine/outlet.ts'
import type { NodeInfo } from '../../src/engine/peers.ts'
import { GrpcServer } from '../../src/rpc/grpc-server.ts'
import { Participants } from '../../src/rpc/participants.ts'
import { SessionHosts, type SessionHostsOptions } from '../../src/rpc/session-hosts.ts'
import { sessionService } from '../../src/rpc/session-server.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { openGrpcStream } from '../../src/wire/grpc-stream.ts'
import type {
  CoordinatorItem,
  HelloItem,
  ServiceItem,
  ServiceStream,
  WelcomeItem,
} from '../../src/wire/items.ts'
import { until } from './fake-coordination.ts'

type Taken = OperationRequest & { readonly options: RequestOptions; readonly reply: Reply }

/** Takes every request and answers none: the test does. */
export class HeldCoordination implements Coordination {
  readonly limits: Limits
  readonly taken: Taken[] = []
  readonly registered: { namespace: string; service: string; registration: Registration }[] = []
  /** What the next registrations wait for. */
  gate: Promise<void> = Promise.resolve()
  /** What a request throws, as a defect would. */
  defect: Error | undefined
  #sessions = 0

  constructor(limits: Partial<Limits> = {}) {
    this.limits = { ...DEFAULT_LIMITS, ...limits }
  }

  request(request: OperationRequest, reply: Reply, options: RequestOptions): void {
    if (this.defect) throw this.defect
    this.taken.push({ ...request, options, reply })
  }

  async register(namespace: Namespace, service: string, registration: Registration): Promise<void> {
    await this.gate
    if (namespace !== 'default' && namespace !== 'shop') throw new EscrowError('unknownNamespace', namespace)
    this.registered.push({ namespace, service, registration })
  }

  async registerUrl(): Promise<void> {}

  /** Tells that other routing parts are best. */
  reroute: (routings: readonly string[]) => void = () => {}

  onRoutings(callback: (routings: readonly string[]) => void): void {
    this.reroute = callback
  }

  nodes(): ClusterView {
    return { nodes: [], logs: 1 }
  }

  /** Those that the store's directory has. */
  readonly known: NodeInfo[] = []

  async isNode({ node, incarnation }: NodeInfo): Promise<boolean> {
    await this.gate
    return this.known.some((each) => each.node === node && each.incarnation === incarnation)
  }

  openSession(): OpenedSession {
    this.#sessions++
    return { session: `abc-${this.#sessions}`, routings: ['r1', 'r2'] }
  }

  health(): ReturnType<Coordination['health']> {
    return { state: 'ready', reason: '' }
  }
}

/** A server with sessions, and what is behind it. */
export interface SessionServer {
  readonly coordination: HeldCoordination
  readonly participants: Participants
  readonly hosts: SessionHosts
  readonly target: string
  stop(): Promise<void>
}

/** Starts a server on a port that is free. */
export async function startSessions(
  options: Partial<SessionHostsOptions> = {},
  limits: Partial<Limits> = {},
): Promise<SessionServer> {
  const coordination = new HeldCoordination(limits)
  const participants = new Participants(systemRuntime)
  const hosts = new SessionHosts({ coordination, participants, runtime: systemRuntime, ...options })
  const service = sessionService({ hosts, limits: coordination.limits, runtime: systemRuntime })
  const server = new GrpcServer({ host: '127.0.0.1', port: 0, services: [service], messageBytesMax: 4 << 20 })
  const { host, port } = await server.start()
  return { coordination, participants, hosts, target: `${host}:${port}`, stop: () => server.stop(0) }
}

/** A hello with nothing special about it. */
export const hello = (given: Partial<HelloItem> = {}): HelloItem => ({
  type: 'hello',
  namespace: '',
  service: 'inventory',
  deliveriesMax: 8,
  checkBacksMax: 8,
  stepsMax: 8,
  previousSession: '',
  registration: { checkers: [], handlers: ['reserve'], databaseId: '' },
  ...given,
})

/** A service that does as it is told, well behaved or not. */
export class Peer {
  readonly stream: ServiceStream
  readonly items: CoordinatorItem[] = []
  readonly ends: (EscrowError | undefined)[] = []

  constructor(target: string) {
    this.stream = openGrpcStream(target)
    this.stream.onItems((items) => this.items.push(...items))
    this.stream.onClose((error) => this.ends.push(error))
  }

  /** Opens a stream and waits for its welcome. */
  static async welcomed(target: string, given: Partial<HelloItem> = {}): Promise<Peer> {
    const peer = new Peer(target)
    peer.send(hello(given))
    await peer.next('welcome')
    return peer
  }

  get welcome(): WelcomeItem {
    return this.of('welcome')[0] as WelcomeItem
  }

  of<Type extends CoordinatorItem['type']>(type: Type): Extract<CoordinatorItem, { type: Type }>[] {
    return this.items.filter((item) => item.type === type) as Extract<CoordinatorItem, { type: Type }>[]
  }

  send(item: ServiceItem): void {
    this.stream.send(item)
  }

  command<Op extends Operation>(
    commandId: number,
    op: Op,
    request: Operations[Op]['request'],
    timeoutMs = 0,
  ): void {
    this.send({ type: 'command', commandId, timeoutMs, op, request } as ServiceItem)
  }

  /** Waits for as many items of a type. */
  async next<Type extends CoordinatorItem['type']>(type: Type, count = 1) {
    await until(() => this.of(type).length >= count || this.ends.length > 0, `${count} of ${type}`)
    if (this.of(type).length < count)
      throw this.ends[0] ?? new Error(`the stream ended before ${count} of ${type}`)
    return this.of(type)
  }

  /** Waits for the end, and tells its code; undefined for good order. */
  async end(): Promise<string | undefined> {
    await until(() => this.ends.length > 0, 'the stream ended')
    return this.ends[0]?.code
  }
}

/** Delivers to `inventory/reserve` and writes the outcome down. */
export function deliver(
  participants: Participants,
  { timeoutMs = 5000, body = new Uint8Array(3), namespace = 'default', databaseId = '' } = {},
): DeliveryOutcome[] {
  const outcomes: DeliveryOutcome[] = []
  participants.deliver(
    'inventory/reserve' as Destination,
    {
      namespace,
      transactionId: 't',
      executionId: 'x',
      attempt: 1,
      service: 'inventory',
      handler: 'reserve',
      body,
      headers: {},
      key: '',
      contentType: '',
      trace: NO_TRACE,
      timeoutMs,
    },
    databaseId,
    (outcome) => outcomes.push(outcome),
  )
  return outcomes
}

/** Asks the checker `orders` and writes the outcome down. */
export function checkBack(
  participants: Participants,
  { timeoutMs = 5000, databaseId = '' } = {},
): CheckBackOutcome[] {
  const outcomes: CheckBackOutcome[] = []
  participants.checkBack(
    {
      namespace: 'default',
      transactionId: 't',
      executionId: 'x',
      attempt: 1,
      checker: 'orders',
      preparedAtMs: 1,
      trace: NO_TRACE,
      timeoutMs,
    },
    databaseId,
    (outcome) => outcomes.push(outcome),
  )
  return outcomes
}
