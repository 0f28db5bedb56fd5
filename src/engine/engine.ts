import type {
  ListRequest,
  OperationRequest,
  PrepareRequest,
  Registration,
  StartRequest,
} from '../core/api.ts'
import type { Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import {
  isMintedId,
  mintedIdParts,
  type Namespace,
  parseNamespace,
  parseTransactionId,
  SLOTS,
  slotOf,
} from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { SagaLimits } from '../core/saga/decision.ts'
import type { SagaProgram } from '../core/saga/program.ts'
import type { Store } from '../store/store.ts'
import { DEFAULT_BOUNDS, type LogBounds } from './bounds.ts'
import type { Coordination, OpenedSession, Reply, RequestOptions } from './coordination.ts'
import { Degradation } from './degradation.ts'
import { Question } from './entry.ts'
import { ParticipantGates, type ParticipantLimits } from './gates.ts'
import { list } from './listing.ts'
import { LogDriver } from './log-driver.ts'
import { Minting, openSession } from './minting.ts'
import { type Listener, Names } from './names.ts'
import type { Outlet } from './outlet.ts'
import type { NodeInfo } from './peers.ts'
import { Programs } from './programs.ts'
import { recover } from './recovery.ts'
import { commandOf, type PolicyDefaults, parsePrepare } from './requests.ts'
import { parseStart, sagaCommandOf, slipOf } from './saga-requests.ts'
import type { StepOutlet } from './step-outlet.ts'

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
  /** The names of the brokers that are configured. */
  readonly brokers: readonly string[]
  /** How long what has ended is remembered, and an id given by a caller is an idempotency key. Milliseconds. */
  readonly retentionMs: number
  readonly bounds?: Partial<LogBounds>
  /** What calls of steps to participants are held to, over all definitions. Default: nothing. */
  readonly participantLimits?: readonly ParticipantLimits[]
  /** Told of each service that listens: those known at the start, and each change. */
  readonly onListener: (listener: Listener) => void
  /** Told what an operator should see. */
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void
}

const RECOVERY_PAUSE_MS = 500
const RETENTION_SWEEP_MS = 60_000

/** Owns the logs of a store, parses what is asked of them, and brings them back when they stop. */
export class Engine implements Coordination {
  readonly limits: Limits
  readonly #options: EngineOptions
  readonly #bounds: LogBounds
  readonly #programs: Programs
  #store: Store | undefined
  #opened: { readonly names: Names; readonly minting: Minting } | undefined
  #drivers: (LogDriver | undefined)[] = []
  #phase: 'starting' | 'ready' | 'draining' = 'starting'
  readonly #degradation: Degradation
  readonly #participantGates: ParticipantGates
  #recovery: Promise<void> | undefined
  /** A log stopped while the store was being opened: it is opened once more. */
  #isReopenNeeded = false
  #cancelSweep: () => void = () => {}

  constructor(options: EngineOptions) {
    this.#options = options
    this.limits = options.limits
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
    options.outlet.onRoom((namespace, what) => {
      for (const driver of this.#drivers) driver?.agenda.roomAt(namespace, what)
    })
    options.stepOutlet.onStepRoom((namespace, name) => {
      for (const driver of this.#drivers) driver?.agenda.roomAtStep(namespace, name)
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
    await this.#programs.register(store.directory)
    this.#drivers = new Array(store.log.logs).fill(undefined)
    for (let at = 0; at < store.log.logs; at++) {
      const handle = await store.log.claim(at)
      const recovered = await recover(store, handle)
      if (at === 0) {
        const { epoch } = handle.claimed
        this.#opened = {
          names,
          minting: new Minting(this.#options.runtime, { storeId: store.log.storeId, epoch }),
        }
      }
      const driver = new LogDriver({
        store,
        handle,
        recovered,
        runtime: this.#options.runtime,
        outlet: this.#options.outlet,
        stepOutlet: this.#options.stepOutlet,
        programs: this.#programs,
        participantGates: this.#participantGates,
        sagaLimits: this.#options.sagaLimits,
        bounds: this.#bounds,
        limits: this.limits,
        notFound: (id) => this.#notFound(id),
        onStopped: (error) => this.#stopped(at, error),
        onDegraded: (reason) => this.#degradation.ofLog(at, reason),
      })
      await driver.start()
      // Not before: what holds a key back must be in memory when the first request comes.
      if (!driver.isStopped) this.#drivers[at] = driver
      if (recovered.entries.size > 0)
        log('info', `log ${at}: recovered ${recovered.entries.size} transactions from its tail`)
    }
  }

  #stopped(at: number, error: EscrowError): void {
    this.#drivers[at] = undefined
    if (this.#phase === 'draining') return
    this.#degradation.ofLog(at, `log ${at} stopped: ${error.message}`)
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
        this.#degradation.forget()
        if (!this.#isReopenNeeded) this.#degradation.of('')
      } catch (thrown) {
        this.#isReopenNeeded = true
        this.#degradation.of(EscrowError.from(thrown).message)
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
    return this.#degradation.reason === ''
      ? { state: 'ready', reason: '' }
      : { state: 'degraded', reason: this.#degradation.reason }
  }

  openSession(): OpenedSession {
    return openSession(this.#options.runtime)
  }

  onRoutings(_callback: (routings: readonly string[]) => void): void {}

  async isNode(_node: NodeInfo): Promise<boolean> {
    return false
  }

  async register(namespace: Namespace, service: string, registration: Registration): Promise<void> {
    await this.#ready().names.register(namespace, service, registration)
  }

  async registerUrl(
    namespace: Namespace,
    service: string,
    url: string,
    registration: Registration,
  ): Promise<void> {
    const listener = { namespace, service, url, registration }
    await this.#ready().names.listen(listener)
    this.#options.onListener(listener)
  }

  #ready(): { readonly names: Names; readonly minting: Minting } {
    if (this.#opened !== undefined && this.#phase === 'ready') return this.#opened
    throw this.#phase === 'draining'
      ? new EscrowError('shuttingDown', 'this coordinator is stopping')
      : new EscrowError('storeUnavailable', 'this coordinator is starting')
  }

  request(operation: OperationRequest, reply: Reply, options: RequestOptions): void {
    try {
      const { names } = this.#ready()
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
      else if (operation.op === 'startSaga')
        this.#startSaga(namespace, operation.request, { reply, deadlineMs, fresh: options.fresh })
      else {
        const id = parseTransactionId(operation.request.id ?? '')
        const question = new Question({ op: operation.op, namespace, id, fresh: false, reply, deadlineMs })
        this.#driver(id).submit(sagaCommandOf(operation) ?? commandOf(operation, this.limits), question)
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
    const { names, minting } = this.#ready()
    const given = request.id ?? ''
    const id = given === '' ? minting.transaction(request.orderingKey ?? '') : parseTransactionId(given)
    const isMinted = given === '' || isMintedId(id)
    const { limits } = this
    const { defaults } = this.#options
    const head = parsePrepare(request, {
      namespace,
      id,
      executionId: minting.execution(),
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

  #startSaga(
    namespace: Namespace,
    request: StartRequest,
    asked: { reply: Reply; deadlineMs: number; fresh: boolean },
  ): void {
    const { reply, deadlineMs, fresh } = asked
    const { names, minting } = this.#ready()
    const given = request.id ?? ''
    const id = given === '' ? minting.transaction(request.orderingKey ?? '') : parseTransactionId(given)
    const slip = slipOf(request, this.#options.sagaLimits)
    const program =
      slip === '' ? this.#programs.named(request.saga, request.version ?? 0) : this.#programs.slip(slip)
    names.checkSteps(namespace, program)
    const command = parseStart(request, {
      namespace,
      id,
      executionId: minting.execution(),
      isMinted: given === '' || isMintedId(id),
      nowMs: this.#options.runtime.now(),
      program,
      slip,
    })
    const question = new Question({
      op: 'startSaga',
      namespace,
      id,
      fresh: fresh || given === '',
      reply,
      deadlineMs,
    })
    this.#driver(id).submit(command, question)
  }

  #driver(id: string): LogDriver {
    const driver = this.#drivers[Math.floor((slotOf(id) * this.#drivers.length) / SLOTS)]
    if (driver !== undefined) return driver
    throw this.#recovery !== undefined || this.#phase !== 'ready'
      ? new EscrowError('storeUnavailable', this.#degradation.reason || 'the log is being recovered')
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
      if (this.#store === undefined) throw new EscrowError('storeUnavailable', this.#degradation.reason)
      const response = await list(this.#store, namespace, request, {
        asOfMs: Math.min(...this.#drivers.map((driver) => driver?.asOfMs ?? 0)),
        outagesMsOf: ({ head }) => this.#driver(head.id).outagesMs,
      })
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
