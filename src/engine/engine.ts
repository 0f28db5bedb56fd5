import type {
  ListRequest,
  ListResponse,
  OperationRequest,
  PrepareRequest,
  Registration,
  TransactionStatus,
} from '../core/api.ts'
import type { Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import {
  type ExecutionId,
  isMintedId,
  mintedIdParts,
  mintTransactionId,
  type Namespace,
  orderingKeyRouting,
  parseNamespace,
  parseTransactionId,
  routingsOf,
  SLOTS,
  slotOf,
} from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import { decodeImage } from '../store/record.ts'
import type { Store } from '../store/store.ts'
import { DEFAULT_BOUNDS, type LogBounds } from './bounds.ts'
import type { Coordination, OpenedSession, Reply, RequestOptions } from './coordination.ts'
import { Question } from './entry.ts'
import { LogDriver } from './log-driver.ts'
import { type Listener, Names } from './names.ts'
import type { Outlet } from './outlet.ts'
import { recover } from './recovery.ts'
import { commandOf, type PolicyDefaults, parsePrepare } from './requests.ts'
import { viewOf } from './views.ts'

/** What the engine is made of. */
export interface EngineOptions {
  /** Opens the store; called again after it had to be closed because it could not go on. */
  readonly openStore: () => Promise<Store>
  readonly outlet: Outlet
  readonly runtime: Runtime
  readonly limits: Limits
  readonly defaults: PolicyDefaults
  readonly namespaces: readonly string[]
  /** The names of the brokers that are configured. */
  readonly brokers: readonly string[]
  /** How long what has ended is remembered, and an id given by a caller is an idempotency key. Milliseconds. */
  readonly retentionMs: number
  readonly bounds?: Partial<LogBounds>
  /** Told of each service that listens: those known at the start, and each change. */
  readonly onListener: (listener: Listener) => void
  /** Told what an operator should see. */
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void
}

const RECOVERY_PAUSE_MS = 500
const RETENTION_SWEEP_MS = 60_000
const ROUTINGS = 8
const LIST_MAX = 1_000

/** Owns the logs of a store, parses what is asked of them, and brings them back when they stop. */
export class Engine implements Coordination {
  readonly limits: Limits
  readonly #options: EngineOptions
  readonly #bounds: LogBounds
  #store: Store | undefined
  #names: Names | undefined
  #drivers: (LogDriver | undefined)[] = []
  #phase: 'starting' | 'ready' | 'draining' = 'starting'
  #degraded = ''
  /** By log: the store doesn't answer it. */
  readonly #failing = new Map<number, string>()
  #recovery: Promise<void> | undefined
  /** A log stopped while the store was being opened: it is opened once more. */
  #isReopenNeeded = false
  #executions = 0
  #executionPrefix = ''
  #minted = 0
  #session = ''
  #routings: readonly string[] = []
  #cancelSweep: () => void = () => {}

  constructor(options: EngineOptions) {
    this.#options = options
    this.limits = options.limits
    this.#bounds = { ...DEFAULT_BOUNDS, ...options.bounds }
    options.outlet.onRoom((namespace, what) => {
      for (const driver of this.#drivers) {
        if ('destination' in what) driver?.deliveries.roomAt(namespace, what.destination)
        else driver?.checkBacks.roomAt(namespace, what.checker)
      }
    })
  }

  /** Claims and recovers every log. Rejects with `storeInUse`, `storeCorrupt`, `storeFormat`, `storeUnavailable`. */
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
    const { openStore, namespaces, brokers, onListener, log } = this.#options
    const store = await openStore()
    this.#store = store
    const names = new Names(store.directory, namespaces, brokers)
    for (const listener of await names.load()) onListener(listener)
    this.#names = names
    this.#drivers = new Array(store.log.logs).fill(undefined)
    this.#routings = routingsOf(ROUTINGS)
    for (let at = 0; at < store.log.logs; at++) {
      const handle = await store.log.claim(at)
      const recovered = await recover(store, handle)
      // Unique for ever: no two claims of one log have the same epoch.
      if (at === 0) this.#executionPrefix = `${store.log.storeId}-${handle.claimed.epoch.toString(36)}`
      const driver = new LogDriver({
        store,
        handle,
        recovered,
        runtime: this.#options.runtime,
        outlet: this.#options.outlet,
        bounds: this.#bounds,
        limits: this.limits,
        notFound: (id) => this.#notFound(id),
        onStopped: (error) => this.#stopped(at, error),
        onDegraded: (reason) => this.#degradeLog(at, reason),
      })
      await driver.start()
      // Not before: what holds a key back must be in memory when the first request comes.
      if (!driver.isStopped) this.#drivers[at] = driver
      if (recovered.entries.size > 0)
        log('info', `log ${at}: recovered ${recovered.entries.size} transactions from its tail`)
    }
    this.#session = this.openSession().session
  }

  #degrade(reason: string): void {
    if (reason !== '' && this.#degraded === '') this.#options.log('warn', `the store is away: ${reason}`)
    if (reason === '' && this.#degraded !== '') this.#options.log('info', 'the store is back')
    this.#degraded = reason
  }

  #degradeLog(at: number, reason: string): void {
    if (reason === '') this.#failing.delete(at)
    else this.#failing.set(at, reason)
    const [first = ''] = this.#failing.values()
    this.#degrade(first)
  }

  #stopped(at: number, error: EscrowError): void {
    this.#drivers[at] = undefined
    if (this.#phase === 'draining') return
    this.#degradeLog(at, `log ${at} stopped: ${error.message}`)
    if (error.code === 'internal') this.#options.log('error', error.stack ?? error.message)
    // Another writer has it now: it isn't ours to take back.
    if (error.code !== 'notOwner') this.#recover()
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
        this.#failing.clear()
        if (!this.#isReopenNeeded) this.#degrade('')
      } catch (thrown) {
        this.#isReopenNeeded = true
        this.#degrade(EscrowError.from(thrown).message)
      }
    }
  }

  async #close(reason: EscrowError): Promise<void> {
    for (const driver of this.#drivers) driver?.stop(reason)
    this.#drivers = []
    const store = this.#store
    this.#store = undefined
    await store?.close().catch(() => {})
  }

  /** Takes nothing more, makes durable what was taken, and closes the store. */
  async stop(): Promise<void> {
    this.#phase = 'draining'
    this.#cancelSweep()
    await this.#recovery
    await Promise.all(this.#drivers.map((driver) => driver?.drain()))
    await this.#store?.close()
    this.#store = undefined
  }

  health(): ReturnType<Coordination['health']> {
    if (this.#phase !== 'ready') return { state: this.#phase, reason: this.#phase }
    return this.#degraded === ''
      ? { state: 'ready', reason: '' }
      : { state: 'degraded', reason: this.#degraded }
  }

  openSession(): OpenedSession {
    const { runtime } = this.#options
    const unique = Buffer.from(runtime.randomBytes(8)).readBigUInt64BE().toString(36)
    return { session: `${runtime.now().toString(36)}-${unique}`, routings: this.#routings }
  }

  async register(namespace: Namespace, service: string, registration: Registration): Promise<void> {
    await this.#ready().register(namespace, service, registration)
  }

  async registerUrl(
    namespace: Namespace,
    service: string,
    url: string,
    registration: Registration,
  ): Promise<void> {
    const listener = { namespace, service, url, registration }
    await this.#ready().listen(listener)
    this.#options.onListener(listener)
  }

  #ready(): Names {
    if (this.#names !== undefined && this.#phase === 'ready') return this.#names
    throw this.#phase === 'draining'
      ? new EscrowError('shuttingDown', 'this coordinator is stopping')
      : new EscrowError('storeUnavailable', 'this coordinator is starting')
  }

  request(operation: OperationRequest, reply: Reply, options: RequestOptions): void {
    try {
      const names = this.#ready()
      const { runtime } = this.#options
      const leftMs = options.deadlineMs - runtime.now()
      if (leftMs <= 0) {
        throw new EscrowError('deadlineExceeded', 'the deadline had passed when the request came')
      }
      const deadlineMs = runtime.monotonic() + leftMs
      const namespace = parseNamespace(operation.request.namespace ?? '')
      names.checkNamespace(namespace)
      if (operation.op === 'list') void this.#list(namespace, operation.request, reply)
      else if (operation.op === 'prepare')
        this.#prepare(namespace, operation.request, { reply, deadlineMs, fresh: options.fresh })
      else {
        const id = parseTransactionId(operation.request.id)
        const question = new Question({ op: operation.op, namespace, id, fresh: false, reply, deadlineMs })
        this.#driver(id).submit(commandOf(operation, this.limits), question)
      }
    } catch (thrown) {
      const error = EscrowError.from(thrown)
      this.#options.runtime.defer(() => reply(error))
    }
  }

  #prepare(
    namespace: Namespace,
    request: PrepareRequest,
    asked: { reply: Reply; deadlineMs: number; fresh: boolean },
  ): void {
    const { reply, deadlineMs, fresh } = asked
    const names = this.#ready()
    const given = request.id ?? ''
    const id = given === '' ? this.#mint(request.orderingKey ?? '') : parseTransactionId(given)
    const isMinted = given === '' || isMintedId(id)
    const { limits } = this
    const { defaults } = this.#options
    const head = parsePrepare(request, {
      namespace,
      id,
      executionId: this.#mintExecution(),
      isMinted,
      limits,
      defaults,
    })
    names.checkChecker(namespace, head.checker)
    for (const { destination } of head.messages) names.checkDestination(namespace, destination)
    const question = new Question({
      op: 'prepare',
      namespace,
      id,
      fresh: fresh || given === '',
      reply,
      deadlineMs,
    })
    this.#driver(id).submit({ type: 'prepareMessage', head }, question)
  }

  #mint(orderingKey: string): ReturnType<typeof mintTransactionId> {
    this.#minted += 1
    const routing =
      orderingKey === ''
        ? (this.#routings[this.#minted % this.#routings.length] as string)
        : orderingKeyRouting(orderingKey)
    return mintTransactionId(routing, this.#session, this.#minted)
  }

  #mintExecution(): ExecutionId {
    this.#executions += 1
    return `${this.#executionPrefix}-${this.#executions.toString(36)}` as ExecutionId
  }

  #driver(id: string): LogDriver {
    const driver = this.#drivers[Math.floor((slotOf(id) * this.#drivers.length) / SLOTS)]
    if (driver !== undefined) return driver
    throw this.#recovery !== undefined || this.#phase !== 'ready'
      ? new EscrowError('storeUnavailable', this.#degraded || 'the log is being recovered')
      : new EscrowError('notOwner', 'another writer has this log')
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

  async #list(namespace: Namespace, request: ListRequest, reply: Reply): Promise<void> {
    try {
      const limit = request.limit || 100
      if (!Number.isSafeInteger(limit) || limit < 1 || limit > LIST_MAX) {
        throw new EscrowError('invalidArgument', `limit is ${limit}, allowed are 1-${LIST_MAX}`)
      }
      const store = this.#store
      if (store === undefined) throw new EscrowError('storeUnavailable', this.#degraded)
      const asOfMs = Math.min(...this.#drivers.map((driver) => driver?.asOfMs ?? 0))
      const statuses: readonly TransactionStatus[] = request.statuses ?? []
      const rows = await store.images.query({ namespace, statuses, after: request.pageToken ?? '', limit })
      const response: ListResponse = {
        transactions: rows.map(({ stored }) => {
          const image = decodeImage(stored.bytes)
          return viewOf(image, this.#driver(image.head.id).outagesMs)
        }),
        asOfMs,
        nextPageToken: rows.length < limit ? '' : (rows.at(-1)?.key ?? ''),
      }
      reply(undefined, response)
    } catch (thrown) {
      const error = EscrowError.from(thrown)
      this.#options.runtime.defer(() => reply(error))
    }
  }

  #sweep(): void {
    this.#cancelSweep = this.#options.runtime.setTimer(() => {
      this.#store?.images.dropFinishedBefore(this.#oldestKnownMs()).then(
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
