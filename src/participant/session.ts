import type { Operation, Operations } from '../core/api.ts'
import { DEFAULT_LIMITS, type Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import { mintTransactionId, orderingKeyRouting } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { CoordinatorItem, ServiceItem, WelcomeItem } from '../wire/items.ts'
import { type CheckerInput, toChecker } from './checker.ts'
import { Connection, type Link, type OpenStream } from './connection.ts'
import type { LocalTransaction, TransactionRequest } from './local-transaction.ts'
import { Registrations } from './registrations.ts'
import { type RequestOptions, Requests } from './requests.ts'
import { sendInTransaction, type TransactionResult } from './send-in-transaction.ts'
import { type BarrierOfHandlers, type Handlers, namesOf, Serving } from './serving.ts'
import { SessionOperations } from './session-operations.ts'
import { parseSessionOptions, type SessionOptions } from './session-options.ts'

/** How long a draining coordinator is given to answer what it has. */
const DRAIN_TIMEOUT_MS = 5000

/**
 * A service's session with a coordinator. It reconnects by itself; what was unanswered is sent again under the same ids, in
 * the same order. Requests reject with `EscrowError`: `disconnected` or `deadlineExceeded` when nothing was done,
 * `uncertain` when nobody knows, `overloaded` when 65,536 requests are unanswered, or what the coordinator answered.
 */
export class Session extends SessionOperations {
  readonly namespace: string
  readonly service: string
  readonly #runtime: Runtime
  readonly #requests: Requests
  readonly #serving: Serving
  readonly #registrations: Registrations
  readonly #connection: Connection
  readonly #closeTimeoutMs: number
  readonly #connectTimeoutMs: number
  #limits = DEFAULT_LIMITS
  #session = ''
  #routings: readonly string[] = []
  #counter = 0
  #link: Link | undefined
  #draining: { readonly link: Link; cancel(): void } | undefined
  #closing: Promise<void> | undefined
  #first: { resolve(): void; reject(error: EscrowError): void; stop(): void } | undefined

  /** Use `connect`. `addresses`: how many places `open` goes to in turns, none of which may take all the time there is. */
  constructor(open: OpenStream, options: SessionOptions, addresses = 1) {
    super()
    const settings = parseSessionOptions(options)
    const { runtime, deliveriesMax, checkBacksMax, stepsMax, onConnection } = settings
    this.namespace = settings.namespace
    this.service = settings.service
    this.#closeTimeoutMs = settings.closeTimeoutMs
    this.#connectTimeoutMs = settings.connectTimeoutMs
    this.#runtime = runtime
    this.#requests = new Requests(runtime)
    this.#serving = new Serving(runtime, { deliveriesMax, checkBacksMax, stepsMax })
    this.#registrations = new Registrations()
    this.#connection = new Connection({
      open,
      runtime,
      handshakeTimeoutMs: Math.ceil(settings.connectTimeoutMs / addresses),
      hello: (previousSession) => ({
        type: 'hello',
        namespace: this.namespace,
        service: this.service,
        deliveriesMax,
        checkBacksMax,
        stepsMax,
        previousSession,
        registration: this.#registrations.forHello(),
      }),
      onWelcome: (link, welcome) => this.#onWelcome(link, welcome),
      onItem: (link, item) => this.#onItem(link, item),
      onBatch: () => this.#finishDrain(),
      onDrain: (link) => this.#onDrain(link),
      onLost: () => this.#onLost(),
      onState: (state) => quietly(() => onConnection?.(state)),
      onFailure: (error) => this.#onFailure(error),
    })
  }

  /** Connects for the first time; resolves at the welcome. */
  open(): Promise<void> {
    const timeoutMs = this.#connectTimeoutMs
    return new Promise((resolve, reject) => {
      let last: EscrowError | undefined
      const stop = this.#runtime.setTimer(() => {
        const error = new EscrowError(
          'disconnected',
          `no coordinator welcomed the session within ${timeoutMs} ms`,
          { cause: last },
        )
        this.#first = undefined
        this.#connection.close()
        reject(error)
      }, timeoutMs)
      const keep = (error: EscrowError): void => {
        last = error
        if (error.family === 'refused') reject(error)
      }
      this.#first = { resolve, reject: keep, stop }
      this.#connection.connect()
    })
  }

  #onFailure(error: EscrowError): boolean {
    const first = this.#first
    // Later on a refusal may end by itself, as when a configuration is corrected: it is tried again.
    if (first === undefined) return false
    first.reject(error)
    if (error.family !== 'refused') return false
    first.stop()
    this.#first = undefined
    return true
  }

  #onWelcome(link: Link, welcome: WelcomeItem): void {
    this.#link = link
    this.#limits = welcome.limits
    this.#session = welcome.session
    this.#routings = welcome.routings
    this.#counter = 0
    const send = link.stream.send.bind(link.stream)
    this.#registrations.connected(send)
    this.#requests.connected({ window: Math.max(1, welcome.commandsMax), send })
    this.#first?.stop()
    this.#first?.resolve()
    this.#first = undefined
  }

  #onItem(link: Link, item: CoordinatorItem): void {
    switch (item.type) {
      case 'reply':
        this.#requests.answered(item.commandId, item.response)
        break
      case 'failure':
        this.#requests.failed(item.commandId, item.error)
        break
      case 'registered':
        this.#registrations.registered(item.number, item.error)
        break
      case 'routings':
        if (item.routings.length > 0) this.#routings = item.routings
        break
      case 'delivery':
        this.#serving.deliver(item.request, (response) => {
          this.#answer(link, { type: 'deliveryAnswer', callId: item.callId, response })
        })
        break
      case 'checkBack':
        this.#serving.checkBack(item.request, (response) => {
          this.#answer(link, { type: 'checkBackAnswer', callId: item.callId, response })
        })
        break
      case 'step':
        this.#serving.step(item.request, (response) => {
          this.#answer(link, { type: 'stepAnswer', callId: item.callId, response })
        })
        break
      default:
      // The connection has seen the welcome and the drain itself.
    }
  }

  // An answer belongs to the stream that its call came on; the coordinator takes a lost one as unknown and calls again.
  #answer(link: Link, item: ServiceItem): void {
    // One that can't be sent, as bodies over a frame's limit, is not sent: the coordinator's time-out takes it as unknown.
    quietly(() => {
      if (link.alive) link.stream.send(item)
    })
    this.#finishDrain()
  }

  #onDrain(link: Link): void {
    if (this.#draining !== undefined) return
    const cancel = this.#runtime.setTimer(() => this.#connection.reconnect(link), DRAIN_TIMEOUT_MS)
    this.#draining = { link, cancel }
    this.#requests.hold()
    this.#finishDrain()
  }

  // New requests wait until the old ones are answered: their order is kept, and two links never share a session.
  #finishDrain(): void {
    if (this.#draining === undefined || this.#requests.inWindow > 0 || this.#serving.running > 0) return
    this.#connection.reconnect(this.#draining.link)
  }

  #onLost(): void {
    this.#link = undefined
    this.#draining?.cancel()
    this.#draining = undefined
    this.#registrations.lost()
    this.#requests.lost()
  }

  /** What requests are held to, as the coordinator told it. */
  get limits(): Limits {
    return this.#limits
  }

  /** Whether a coordinator is connected at this moment. */
  get connected(): boolean {
    return this.#link !== undefined
  }

  /** Serves a checker. Resolves when its name is durable; rejects with `invalidArgument`, or with what the coordinator answers. */
  async registerChecker(name: string, checker: CheckerInput): Promise<void> {
    this.#refuseClosed()
    const parsed = toChecker(checker)
    this.#serving.addChecker(name, parsed)
    try {
      const databaseId = parsed.databaseId ?? ''
      await this.#registrations.add({ checkers: [name], handlers: [], steps: [], databaseId })
    } catch (error) {
      this.#serving.removeChecker(name)
      throw error
    }
  }

  /**
   * Serves handlers, each reached as `service/handler`, and steps of sagas. With the barrier that stands behind them,
   * further attempts, and compensations, come only to those who have the same database. Resolves when the names are
   * durable; rejects as `registerChecker`.
   */
  async registerHandlers(
    handlers: Handlers,
    options: { barrier?: BarrierOfHandlers | undefined } = {},
  ): Promise<void> {
    this.#refuseClosed()
    const { barrier } = options
    this.#serving.addHandlers(handlers, barrier)
    try {
      await this.#registrations.add({
        checkers: [],
        ...namesOf(handlers),
        databaseId: barrier?.databaseId ?? '',
      })
    } catch (error) {
      this.#serving.removeHandlers(handlers)
      throw error
    }
  }

  #refuseClosed(): void {
    if (this.#closing !== undefined) throw new EscrowError('disconnected', 'the session is closed')
  }

  protected override mintId(orderingKey: string | undefined): string {
    let routing: string
    if (orderingKey) routing = orderingKeyRouting(orderingKey)
    else routing = this.#routings[this.#counter % this.#routings.length] ?? this.#session
    this.#counter++
    return mintTransactionId(routing, this.#session, this.#counter)
  }

  protected override submit<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    options: RequestOptions,
  ): Promise<Operations[Op]['response']> {
    const inNamespace =
      request.namespace === undefined && this.namespace !== 'default'
        ? { ...request, namespace: this.namespace }
        : request
    return this.#requests.submit(op, inNamespace, options)
  }

  /**
   * Sends messages that are delivered if, and only if, the local transaction of `callback` commits.
   *
   * When the callback resolves, its local transaction counts as committed. When it throws, nobody knows: the checker is
   * asked at once, and the error is thrown on. When the local transaction is committed but the coordinator doesn't
   * acknowledge that, or takes no body so large, this resolves nevertheless, with `acknowledged: false`: the check-back
   * settles it (what is too large is parked, and nothing else), and an error would invite the caller to do the work
   * twice. Rejects with what the callback threw, with what `prepare` rejects with (then nothing happened, or with
   * `uncertain` nothing will), with `resolutionConflict` when the transaction was settled as rolled back meanwhile, and
   * with `barrierRefused` when that had happened before, under the same id.
   *
   * A step of a saga that sends gives `tx` to `barrier.step`, and leaves the id out: see there.
   */
  sendInTransaction<T>(
    request: TransactionRequest,
    callback: (tx: LocalTransaction) => Promise<T> | T,
    options: RequestOptions = {},
  ): Promise<TransactionResult<T>> {
    const context = { namespace: this.namespace, limits: this.#limits, runtime: this.#runtime }
    const databaseId = request.databaseId ?? this.#serving.databaseOf(request.checker)
    return sendInTransaction({
      session: this,
      context,
      request: { ...request, databaseId },
      callback,
      options,
    })
  }

  /** Takes nothing new, waits for what is unanswered (at most `closeTimeoutMs`), and ends the session. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const error = new EscrowError('disconnected', 'the session is closed')
    await Promise.all([
      this.#requests.close(error, this.#closeTimeoutMs),
      this.#serving.idle(this.#closeTimeoutMs),
    ])
    this.#serving.stop()
    this.#registrations.close(error)
    this.#connection.close()
  }
}

function quietly(work: () => void): void {
  try {
    work()
  } catch {
    // A logger that fails must not end a session.
  }
}
