import type { Broker } from '../broker/broker.ts'
import type { OperationRequest, Registration } from '../core/api.ts'
import type { Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import { mintedIdParts, type Namespace } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { SagaLimits } from '../core/saga/decision.ts'
import type { SagaProgram } from '../core/saga/program.ts'
import type { Store } from '../store/store.ts'
import { DEFAULT_BOUNDS, type LogBounds } from './bounds.ts'
import { Cluster, type ClusterOptions } from './cluster.ts'
import type {
  ClusterView,
  Coordination,
  NodeView,
  OpenedSession,
  Reply,
  RequestOptions,
} from './coordination.ts'
import { Degradation } from './degradation.ts'
import { Door } from './door.ts'
import { ParticipantGates, type ParticipantLimits } from './gates.ts'
import { Logs } from './logs.ts'
import { openSession } from './minting.ts'
import { type Listener, Names } from './names.ts'
import type { Outlet } from './outlet.ts'
import type { NodeInfo } from './peers.ts'
import { Programs } from './programs.ts'
import type { PolicyDefaults } from './requests.ts'
import type { StepOutlet } from './step-outlet.ts'
import { Topics } from './topics.ts'

/** What the engine is made of. */
export interface EngineOptions {
  /** Opens the store; called again after it had to be closed because it could not go on. */
  readonly openStore: () => Promise<Store>
  readonly outlet: Outlet
  readonly stepOutlet: StepOutlet
  /** The definitions of sagas, several versions side by side. */
  readonly sagas: readonly SagaProgram[]
  readonly sagaLimits: SagaLimits
  /** Compiles a routing slip, given as JSON text. */
  readonly compileSlip: (slip: string) => SagaProgram
  readonly runtime: Runtime
  readonly limits: Limits
  readonly defaults: PolicyDefaults
  readonly namespaces: readonly string[]
  /** The brokers that are configured, by name. */
  readonly brokers: ReadonlyMap<string, Pick<Broker, 'register' | 'faultOf'>>
  /** How long what has ended is remembered, and an id given by a caller is an idempotency key. Milliseconds. */
  readonly retentionMs: number
  readonly bounds?: Partial<LogBounds>
  /** What calls of steps to participants are held to, over all definitions. Default: nothing. */
  readonly participantLimits?: readonly ParticipantLimits[]
  /** Makes it one of many nodes on a store that they share; asked once the store is open. Default: it has the store to itself. */
  readonly cluster?: (() => ClusterOptions) | undefined
  /** Told of each service that listens: those known at the start, and each change. */
  readonly onListener: (listener: Listener) => void
  /** Told what an operator should see. */
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void
}

const RECOVERY_PAUSE_MS = 500
const RETENTION_SWEEP_MS = 60_000
/** Names that nobody knows are looked for this often at the most. */
const NAMES_PAUSE_MS = 100
/** Where the degradation keeps what is wrong with the cluster, beside the logs. */
const CLUSTER = -1

/** What there is while the store is open. */
interface Opened {
  readonly store: Store
  readonly logs: Logs
  readonly names: Names
  readonly door: Door
  readonly cluster: Cluster | undefined
}

/** Owns the logs of a store, or its share of them, takes what is asked, and brings logs back when they stop. */
export class Engine implements Coordination {
  readonly limits: Limits
  readonly #options: EngineOptions
  readonly #bounds: LogBounds
  readonly #programs: Programs
  #opened: Opened | undefined
  #phase: 'starting' | 'ready' | 'draining' = 'starting'
  readonly #degradation: Degradation
  readonly #participantGates: ParticipantGates
  #recovery: Promise<void> | undefined
  /** A log stopped while the store was being opened: it is opened once more. */
  #isReopenNeeded = false
  #cancelSweep: () => void = () => {}
  readonly #startedAtMs: number
  #onRoutings: (routings: readonly string[]) => void = () => {}
  #reading: Promise<void> | undefined

  constructor(options: EngineOptions) {
    this.#options = options
    this.limits = options.limits
    this.#startedAtMs = options.runtime.now()
    this.#bounds = { ...DEFAULT_BOUNDS, ...options.bounds }
    const { sagas, compileSlip, log, runtime, participantLimits = [] } = options
    this.#degradation = new Degradation(log)
    this.#participantGates = new ParticipantGates(participantLimits, () => runtime.monotonic())
    const missing = (saga: string, version: number): void =>
      log(
        'error',
        `saga ${saga} version ${version} isn't defined here any more: its sagas wait for it, or for a migration`,
      )
    this.#programs = new Programs({ programs: sagas, compileSlip, missing })
    options.outlet.onRoom((namespace, what) => this.#opened?.logs.roomAt(namespace, what))
    options.stepOutlet.onStepRoom((namespace, name) => this.#opened?.logs.roomAtStep(namespace, name))
  }

  /**
   * Claims and recovers every log; one of many nodes joins the others, and takes its share. Rejects with `storeInUse`,
   * `storeCorrupt`, `storeFormat`, `storeUnavailable`.
   */
  async start(): Promise<void> {
    try {
      await this.#open()
    } catch (thrown) {
      await this.#close(new EscrowError('storeUnavailable', 'the store could not be opened'))
      throw EscrowError.from(thrown)
    }
    this.#phase = 'ready'
    this.#sweep()
    if (this.#isReopenNeeded) this.#recover()
  }

  async #open(): Promise<void> {
    const { openStore, namespaces, brokers, onListener, runtime, log } = this.#options
    const store = await openStore()
    const topics = new Topics({ directory: store.directory, brokers, runtime, log })
    const names = new Names(store.directory, namespaces, topics)
    const logs = this.#logsOf(store, topics)
    const cluster = this.#clusterOf(store, logs, names)
    const door = this.#doorOf({ store, logs, names, topics, cluster })
    this.#opened = { store, logs, names, door, cluster }
    for (const listener of await names.load()) if (listener.url !== '') onListener(listener)
    await this.#programs.register(store.directory)
    if (cluster === undefined) for (let log = 0; log < logs.count; log++) await logs.claim(log)
    else await cluster.join()
    door.look()
    runtime.defer(() => this.#onRoutings(door.routings))
    // Beside all else: a broker may be away for long.
    const isOver = (): boolean => this.#opened?.door !== door || this.#phase === 'draining'
    topics.lookAgain(isOver).catch((thrown) => log('warn', EscrowError.from(thrown).message))
  }

  #logsOf(store: Store, topics: Topics): Logs {
    const { runtime, outlet, stepOutlet, sagaLimits, log } = this.#options
    return new Logs({
      store,
      runtime,
      outlet,
      stepOutlet,
      programs: this.#programs,
      participantGates: this.#participantGates,
      sagaLimits,
      bounds: this.#bounds,
      limits: this.limits,
      tooLarge: (message, trace) => topics.tooLarge(message, trace),
      notFound: (id) => this.#notFound(id),
      onStopped: (at, error) => this.#stopped(at, error),
      onDegraded: (at, reason) => this.#degradation.ofLog(at, reason),
      log,
    })
  }

  #clusterOf({ directory }: Store, logs: Logs, names: Names): Cluster | undefined {
    const { cluster, runtime, log } = this.#options
    if (cluster === undefined) return undefined
    return new Cluster({
      ...cluster(),
      directory,
      logs,
      runtime,
      onLogs: () => this.#lookAtLogs(),
      onNames: () => this.#readNames(names),
      onDegraded: (reason) => this.#degradation.ofLog(CLUSTER, reason),
      log,
    })
  }

  #doorOf(parts: Omit<Opened, 'door'> & { readonly topics: Topics }): Door {
    const { runtime, sagaLimits, defaults } = this.#options
    const { cluster } = parts
    return new Door({
      ...parts,
      programs: this.#programs,
      runtime,
      limits: this.limits,
      sagaLimits,
      defaults,
      readNames: cluster === undefined ? undefined : () => this.#readNames(parts.names),
      absent: () => this.#absent(),
    })
  }

  #lookAtLogs(): void {
    const { door } = this.#opened ?? {}
    if (door === undefined) return
    door.look()
    this.#onRoutings(door.routings)
  }

  /** Reads the names that other nodes have registered; one look serves all who came before it began. */
  async #readNames(names: Names): Promise<void> {
    const { runtime, onListener } = this.#options
    this.#reading ??= new Promise<void>((resolve) => {
      runtime.setTimer(resolve, NAMES_PAUSE_MS)
    }).then(async () => {
      this.#reading = undefined
      for (const listener of await names.load()) onListener(listener)
    })
    await this.#reading
  }

  #stopped(at: number, error: EscrowError): void {
    if (this.#phase === 'draining') return
    const { logs, cluster } = this.#opened ?? {}
    // Another writer has it now: it isn't ours to take back, and what failed about it isn't our trouble any more.
    if (error.code === 'notOwner') {
      this.#lookAtLogs()
      if (cluster !== undefined) return this.#degradation.ofLog(at, '')
    }
    this.#degradation.ofLog(at, `log ${at} stopped: ${error.message}`)
    if (error.code === 'internal') this.#options.log('error', error.stack ?? error.message)
    if (error.code === 'notOwner') return
    // One of many is claimed anew at the next look, and the others go on; the only one may be broken with its store.
    if (cluster === undefined || logs?.count === 1) this.#recover()
  }

  #recover(): void {
    this.#isReopenNeeded = true
    if (this.#recovery !== undefined || this.#phase !== 'ready') return
    // A turn later: closing tells of each log that stops, and that must find the recovery under way.
    this.#recovery = Promise.resolve()
      .then(() => this.#reopen())
      .finally(() => {
        this.#recovery = undefined
      })
  }

  async #reopen(): Promise<void> {
    while (this.#isReopenNeeded && this.#phase === 'ready') {
      await this.#close(new EscrowError('storeUnavailable', 'the store is being opened again'))
      await new Promise<void>((resolve) => this.#options.runtime.setTimer(resolve, RECOVERY_PAUSE_MS))
      // Stopped meanwhile: it stays closed.
      if (this.#phase !== 'ready') return
      this.#isReopenNeeded = false
      try {
        await this.#open()
        this.#degradation.forget()
        if (!this.#isReopenNeeded) this.#degradation.of('')
      } catch (thrown) {
        this.#isReopenNeeded = true
        this.#degradation.of(EscrowError.from(thrown).message)
      }
    }
  }

  async #close(reason: EscrowError): Promise<void> {
    const { store, logs, cluster } = this.#opened ?? {}
    cluster?.stop()
    logs?.stop(reason)
    this.#opened = undefined
    await store?.close().catch(() => {})
  }

  /** One of many: gives its logs to the others, while it still takes what is asked. What fails is left to `stop`. */
  async leave(): Promise<void> {
    await this.#opened?.cluster?.leave().catch(() => {})
  }

  /** Takes nothing more, makes durable what was taken, and closes the store. */
  async stop(): Promise<void> {
    this.#phase = 'draining'
    this.#cancelSweep()
    await this.#recovery
    const { store, logs, cluster } = this.#opened ?? {}
    if (cluster === undefined) await logs?.drain()
    else await cluster.left()
    await store?.close()
    this.#opened = undefined
  }

  health(): ReturnType<Coordination['health']> {
    if (this.#phase !== 'ready') return { state: this.#phase, reason: this.#phase }
    return this.#degradation.reason === ''
      ? { state: 'ready', reason: '' }
      : { state: 'degraded', reason: this.#degradation.reason }
  }

  openSession(): OpenedSession {
    return openSession(this.#options.runtime, this.#ready().door.routings)
  }

  onRoutings(callback: (routings: readonly string[]) => void): void {
    this.#onRoutings = callback
  }

  nodes(): ClusterView {
    const { cluster, logs } = this.#ready()
    if (cluster !== undefined) return { nodes: cluster.nodes(), logs: logs.count }
    const alone: NodeView = {
      node: '',
      state: 'here',
      startedAtMs: this.#startedAtMs,
      silentMs: 0,
      logs: logs.progress(),
    }
    return { nodes: [alone], logs: logs.count }
  }

  async isNode(node: NodeInfo): Promise<boolean> {
    return (await this.#opened?.cluster?.isNode(node)) ?? false
  }

  async register(namespace: Namespace, service: string, registration: Registration): Promise<void> {
    const { names, cluster } = this.#ready()
    if (await names.register(namespace, service, registration)) await cluster?.bumpNames()
  }

  async registerUrl(
    namespace: Namespace,
    service: string,
    url: string,
    registration: Registration,
  ): Promise<void> {
    const { names, cluster } = this.#ready()
    const listener = { namespace, service, url, registration }
    await names.listen(listener)
    await cluster?.bumpNames()
    this.#options.onListener(listener)
  }

  #ready(): Opened {
    if (this.#opened !== undefined && this.#phase === 'ready') return this.#opened
    if (this.#phase === 'draining') throw new EscrowError('shuttingDown', 'this coordinator is stopping')
    throw new EscrowError('storeUnavailable', this.#degradation.reason || 'this coordinator is starting')
  }

  request(operation: OperationRequest, reply: Reply, options: RequestOptions): void {
    try {
      this.#ready().door.request(operation, reply, options)
    } catch (thrown) {
      const error = EscrowError.from(thrown)
      this.#options.runtime.defer(() => reply(error))
    }
  }

  /** Why a log is not driven here, nor known to be elsewhere. */
  #absent(): EscrowError {
    if (this.#recovery !== undefined || this.#phase !== 'ready')
      return new EscrowError('storeUnavailable', this.#degradation.reason || 'the log is being recovered')
    return this.#options.cluster === undefined
      ? new EscrowError('notOwner', 'another writer has this log')
      : new EscrowError('notOwner', 'no node has this log at the moment: one of them will take it over')
  }

  /** Tells `expired` from `notFound` where the id itself tells its age. */
  #notFound(id: string): EscrowError {
    const minted = mintedIdParts(id)
    return minted !== undefined && minted.sessionStartedAtMs < this.#oldestKnownMs()
      ? new EscrowError('expired', 'the transaction ended, and its retention time has passed')
      : new EscrowError('notFound', 'no such transaction')
  }

  /** The oldest wall-clock time of which anything that ended is still known. */
  #oldestKnownMs(): number {
    return this.#options.runtime.now() - this.#options.retentionMs
  }

  #sweep(): void {
    this.#cancelSweep = this.#options.runtime.setTimer(() => {
      this.#opened?.store.images.dropFinishedBefore(this.#oldestKnownMs()).then(
        (dropped) =>
          dropped > 0 && this.#options.log('info', `dropped ${dropped} days of ended transactions`),
        (error) =>
          this.#options.log(
            'warn',
            `ended transactions could not be dropped: ${EscrowError.from(error).message}`,
          ),
      )
      this.#sweep()
    }, RETENTION_SWEEP_MS)
  }
}
