/** The composition root: the only file that chooses adapters. */
import { hostname } from 'node:os'
import type { Broker } from './broker/broker.ts'
import { type Config, type EscrowOptions, isConfig, parseConfig } from './config.ts'
import { type Address, addressText } from './core/address.ts'
import type { Operation, Operations } from './core/api.ts'
import { EscrowError } from './core/errors.ts'
import type { Runtime } from './core/runtime.ts'
import { compileSlip, parseSlip } from './core/saga/slip.ts'
import { DestinationOutlet } from './engine/broker-outlet.ts'
import type { ClusterOptions } from './engine/cluster.ts'
import type { Coordination } from './engine/coordination.ts'
import { Engine, type EngineOptions } from './engine/engine.ts'
import { type ConnectOptions, connect } from './participant/connect.ts'
import type { Session } from './participant/session.ts'
import { activeTrace } from './participant/tracing.ts'
import { GrpcServer } from './rpc/grpc-server.ts'
import { healthService } from './rpc/health.ts'
import { HttpServer } from './rpc/http-server.ts'
import { Listeners } from './rpc/listeners.ts'
import { Participants } from './rpc/participants.ts'
import { PatientRequests } from './rpc/patient-requests.ts'
import { PeerLinks } from './rpc/peer-links.ts'
import { SessionHosts } from './rpc/session-hosts.ts'
import { sessionService } from './rpc/session-server.ts'
import { COORDINATOR_SERVICE, unaryMethods } from './rpc/unary.ts'
import { unaryService } from './rpc/unary-server.ts'
import { systemRuntime } from './runtime.ts'
import type { Store } from './store/store.ts'
import { openStore } from './stores.ts'
import { openGrpcStream } from './wire/grpc-stream.ts'
import { localStreamPair } from './wire/local-stream.ts'

export { type MemoryBroker, memory } from './broker/memory.ts'

/** Told what an operator should see. */
export type Log = (level: 'info' | 'warn' | 'error', message: string) => void

/** What a coordinator takes from outside beside its configuration; each has a default. */
export interface CoordinatorDependencies {
  /** Clock, randomness and scheduling. Default: the real ones. */
  readonly runtime?: Runtime | undefined
  /** Default: warnings and errors on standard error. */
  readonly log?: Log | undefined
  /** Opens the store; called again where it had to be closed. Default: the one that the configuration names. */
  readonly openStore?: (() => Promise<Store>) | undefined
  /** Bounds of the engine that few need to change. */
  readonly bounds?: EngineOptions['bounds']
}

/** How long an operation may take, in milliseconds from the call. Default 30,000; 300,000 for `wait`. */
export interface CallOptions {
  readonly timeoutMs?: number | undefined
}

/** The operations, each as a function: what it promises stands in protos/escrow/v1/coordinator.proto. */
export type CoordinatorOperations = {
  readonly [Op in Operation]: (
    request: Operations[Op]['request'],
    options?: CallOptions,
  ) => Promise<Operations[Op]['response']>
}

/** A coordinator. */
export interface Coordinator extends CoordinatorOperations {
  /**
   * Opens the store, recovers what it holds, and listens. Rejects with `storeInUse`, `storeCorrupt`, `storeFormat`,
   * `storeUnavailable`, or `invalidArgument` where it can't listen; then nothing is left open.
   */
  start(): Promise<void>
  /** Takes nothing new, finishes what is under way for at most `drainMsMax`, and closes the store. May be repeated. */
  stop(): Promise<void>
  /** A session inside this process: the same as over a network. */
  connect(options: ConnectOptions): Promise<Session>
  health(): ReturnType<Coordination['health']>
  /** Where it listens, with the ports that were chosen; empty before `start`, and where it doesn't listen. */
  readonly addresses: { readonly grpc?: Address; readonly http?: Address }
}

const DEFAULT_TIMEOUT_MS = 30_000
const DEFAULT_WAIT_TIMEOUT_MS = 300_000
/** Of one unary request. In JSON a body of the largest size takes a third more than its bytes. */
const REQUEST_BYTES_MAX = 6 << 20
/** What the transport takes at all: beyond it there is an error, but one that only the transport words. */
const MESSAGE_BYTES_MAX = 8 << 20
const HTTP_CONNECTIONS_MAX = 4_096
/** Sessions take commands for a second after they are told to go on elsewhere; only then their grace begins. */
const SESSION_GRACE_MS = 1_500

/**
 * Makes a coordinator; nothing is opened before `start`.
 *
 * ```ts
 * const coordinator = createCoordinator({ store: 'embedded:./.escrow', listen: false })
 * await coordinator.start()
 * const session = await coordinator.connect({ service: 'orders' })
 * ```
 */
export function createCoordinator(
  options: EscrowOptions | Config = {},
  dependencies: CoordinatorDependencies = {},
): Coordinator {
  return new AssembledCoordinator(isConfig(options) ? options : parseConfig(options), dependencies)
}

class AssembledCoordinator implements Coordinator {
  readonly #config: Config
  readonly #runtime: Runtime
  readonly #log: Log
  readonly #openStore: () => Promise<Store>
  readonly #participants: Participants
  readonly #listeners: Listeners
  readonly #brokers = new Map<string, Broker>()
  readonly #dependencies: CoordinatorDependencies
  /** Opened, and not taken over by the engine yet. */
  #opened: Store | undefined
  #outlet: DestinationOutlet | undefined
  #engine: Engine | undefined
  #requests: PatientRequests | undefined
  #peers: PeerLinks | undefined
  #hosts: SessionHosts | undefined
  #grpc: GrpcServer | undefined
  #http: HttpServer | undefined
  #addresses: Coordinator['addresses'] = {}
  #isClosing = false
  #started: Promise<void> | undefined
  #stopped: Promise<void> | undefined

  constructor(config: Config, dependencies: CoordinatorDependencies) {
    this.#config = config
    this.#dependencies = dependencies
    this.#runtime = dependencies.runtime ?? systemRuntime
    this.#log = dependencies.log ?? logProblems
    this.#openStore = dependencies.openStore ?? (() => openStore(config, this.#runtime, this.#log))
    this.#participants = new Participants(this.#runtime)
    this.#listeners = new Listeners(this.#participants, this.#runtime, this.#log)
  }

  readonly prepare: Coordinator['prepare'] = (request, options) =>
    this.#request(
      'prepare',
      request.trace === undefined ? { ...request, trace: activeTrace() } : request,
      options,
    )
  readonly commit: Coordinator['commit'] = (request, options) => this.#request('commit', request, options)
  readonly rollback: Coordinator['rollback'] = (request, options) =>
    this.#request('rollback', request, options)
  readonly requestCheckBack: Coordinator['requestCheckBack'] = (request, options) =>
    this.#request('requestCheckBack', request, options)
  readonly get: Coordinator['get'] = (request, options) => this.#request('get', request, options)
  readonly list: Coordinator['list'] = (request, options) => this.#request('list', request, options)
  readonly wait: Coordinator['wait'] = (request, options) => this.#request('wait', request, options)
  readonly retry: Coordinator['retry'] = (request, options) => this.#request('retry', request, options)
  readonly skip: Coordinator['skip'] = (request, options) => this.#request('skip', request, options)
  readonly compensate: Coordinator['compensate'] = (request, options) =>
    this.#request('compensate', request, options)
  readonly startSaga: Coordinator['startSaga'] = (request, options) =>
    this.#request(
      'startSaga',
      request.trace === undefined ? { ...request, trace: activeTrace() } : request,
      options,
    )
  readonly signal: Coordinator['signal'] = (request, options) => this.#request('signal', request, options)
  readonly cancel: Coordinator['cancel'] = (request, options) => this.#request('cancel', request, options)
  readonly complete: Coordinator['complete'] = (request, options) =>
    this.#request('complete', request, options)
  readonly migrateSaga: Coordinator['migrateSaga'] = (request, options) =>
    this.#request('migrateSaga', request, options)

  get addresses(): Coordinator['addresses'] {
    return this.#addresses
  }

  start(): Promise<void> {
    this.#started ??= this.#start().catch(async (thrown) => {
      await this.#close(0).catch(() => {})
      throw thrown
    })
    return this.#started
  }

  stop(): Promise<void> {
    this.#stopped ??= (async () => {
      // What failed to start has closed itself already.
      const isRunning = await (this.#started ?? Promise.reject()).then(
        () => true,
        () => false,
      )
      if (isRunning) await this.#close(this.#config.drainMsMax)
    })()
    return this.#stopped
  }

  async connect(options: ConnectOptions): Promise<Session> {
    const hosts = this.#hosts
    if (hosts === undefined) throw notStarted()
    const open = () => {
      const { service, coordinator } = localStreamPair((callback) => this.#runtime.defer(callback))
      hosts.accept(coordinator)
      return service
    }
    return connect(open, { runtime: this.#runtime, ...options })
  }

  health(): ReturnType<Coordination['health']> {
    return this.#engine?.health() ?? { state: 'starting', reason: 'not started' }
  }

  #request<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    options: CallOptions = {},
  ): Promise<Operations[Op]['response']> {
    if (this.#requests === undefined) return Promise.reject(notStarted())
    const timeoutMs = options.timeoutMs ?? (op === 'wait' ? DEFAULT_WAIT_TIMEOUT_MS : DEFAULT_TIMEOUT_MS)
    return this.#requests.request(op, request, this.#runtime.now() + timeoutMs)
  }

  async #start(): Promise<void> {
    const { brokers, listen, participants } = this.#config
    for (const [name, make] of brokers) this.#brokers.set(name, await makeBroker(name, make))
    // Before anything listens, so that a second process is told about the store and not about a port.
    this.#opened = await this.#openStore()
    this.#outlet = new DestinationOutlet({
      participants: this.#participants,
      brokers: this.#brokers,
      runtime: this.#runtime,
      log: this.#log,
    })
    const engine = this.#makeEngine(this.#outlet)
    this.#engine = engine
    this.#requests = new PatientRequests({
      coordination: engine,
      runtime: this.#runtime,
      waitingMax: this.#config.callsMax,
      isStopping: () => this.#isClosing,
    })
    this.#hosts = new SessionHosts({
      coordination: engine,
      participants: this.#participants,
      runtime: this.#runtime,
      drainMsMax: this.#config.drainMsMax,
    })
    // From the start: whoever watches sees it alive, and not ready yet, and other nodes reach it as soon as it says where.
    if (listen) {
      await this.#listenHttp(engine)
      await this.#listenGrpc(engine, this.#hosts)
    }
    await engine.start()
    for (const { namespace, service, url, registration } of participants) {
      await engine.registerUrl(namespace, service, url, registration)
    }
  }

  #makeEngine(outlet: DestinationOutlet): Engine {
    const { limits, sagaLimits, checkBack, retry, namespaces, retentionMs, sagas, participantLimits } =
      this.#config
    const { store, cluster } = this.#config
    const isShared = store.kind === 'postgres'
    return new Engine({
      openStore: async () => {
        const opened = this.#opened
        this.#opened = undefined
        return opened ?? this.#openStore()
      },
      outlet,
      stepOutlet: this.#participants,
      sagas: [...sagas.values()].map(({ program }) => program),
      sagaLimits,
      compileSlip: (text) => compileSlip(parseSlip(text)).program,
      runtime: this.#runtime,
      limits,
      defaults: { checkBack, retry },
      namespaces,
      brokers: this.#brokers,
      retentionMs,
      participantLimits,
      bounds: { ...(isShared && { provenMsMax: cluster.leaseMs / 2 }), ...this.#dependencies.bounds },
      cluster: isShared ? () => this.#joined() : undefined,
      onListener: (listener) => this.#listeners.set(listener),
      log: this.#log,
    })
  }

  /** This node as one of many, once it listens. */
  #joined(): ClusterOptions {
    const { grpc, cluster } = this.#config
    const { host, port } = this.#addresses.grpc ?? grpc
    const isAnywhere = host === '0.0.0.0' || host === '::'
    const node = cluster.advertise || addressText({ host: isAnywhere ? hostname() : host, port })
    const incarnation = Buffer.from(this.#runtime.randomBytes(16)).toString('base64url')
    const self = { node, incarnation }
    this.#peers = new PeerLinks({
      self,
      participants: this.#participants,
      runtime: this.#runtime,
      open: openGrpcStream,
      // It may stand still with its connections open, and a keepalive takes much longer than its lease to find that out.
      left: (other) => this.#hosts?.leftBy(other),
      log: this.#log,
    })
    return { node: self, peers: this.#peers, leaseMs: cluster.leaseMs }
  }

  async #listenHttp(engine: Engine): Promise<void> {
    this.#http = new HttpServer({
      ...this.#config.http,
      methods: this.#methods(engine),
      coordination: engine,
      requestBytesMax: REQUEST_BYTES_MAX,
      connectionsMax: HTTP_CONNECTIONS_MAX,
    })
    this.#addresses = { ...this.#addresses, http: await this.#http.start() }
  }

  async #listenGrpc(engine: Engine, hosts: SessionHosts): Promise<void> {
    const session = sessionService({ hosts, limits: this.#config.limits, runtime: this.#runtime })
    const now = () => this.#runtime.now()
    const methods = this.#methods(engine).values()
    this.#grpc = new GrpcServer({
      ...this.#config.grpc,
      services: [
        unaryService({ methods, now, requestBytesMax: REQUEST_BYTES_MAX }),
        session,
        healthService(engine, [COORDINATOR_SERVICE.typeName, session.descriptor.typeName]),
      ],
      messageBytesMax: MESSAGE_BYTES_MAX,
    })
    this.#addresses = { ...this.#addresses, grpc: await this.#grpc.start() }
  }

  #sharedMethods: ReturnType<typeof unaryMethods> | undefined

  /** One door for both servers: their calls are counted together. */
  #methods(engine: Engine): ReturnType<typeof unaryMethods> {
    this.#sharedMethods ??= unaryMethods({
      coordination: engine,
      runtime: this.#runtime,
      inFlightMax: this.#config.callsMax,
      isStopping: () => this.#isClosing,
    })
    return this.#sharedMethods
  }

  async #close(graceMs: number): Promise<void> {
    this.#isClosing = true
    // One of many: the others take its logs over while it still answers.
    await this.#engine?.leave()
    // Sessions and calls first, while there is an engine to answer them; and the sessions before the server that carries
    // them, which ends its connections at their next keepalive once it stops.
    const endMs = this.#runtime.monotonic() + graceMs + SESSION_GRACE_MS
    const stopGrpc = () => this.#grpc?.stop(Math.max(0, endMs - this.#runtime.monotonic()))
    await Promise.all([this.#http?.stop(graceMs), this.#hosts?.drain().then(stopGrpc)])
    this.#listeners.clear()
    await this.#engine?.stop()
    this.#peers?.close()
    await this.#opened?.close()
    this.#outlet?.close()
    for (const [name, broker] of this.#brokers) {
      await broker
        .close()
        .catch((thrown) =>
          this.#log('warn', `broker ${name} could not be closed: ${EscrowError.from(thrown).message}`),
        )
    }
    this.#addresses = {}
  }
}

async function makeBroker(name: string, make: () => Broker | Promise<Broker>): Promise<Broker> {
  try {
    return await make()
  } catch (thrown) {
    if (thrown instanceof EscrowError) throw thrown
    throw new EscrowError('invalidArgument', `option brokers.${name}: it can't be made: ${String(thrown)}`, {
      cause: thrown,
    })
  }
}

const notStarted = (): EscrowError => new EscrowError('shuttingDown', 'this coordinator has not been started')

function logProblems(level: Parameters<Log>[0], message: string): void {
  if (level !== 'info') process.stderr.write(`escrow ${level}: ${message}\n`)
}
