import type { ListRequest, OperationRequest, PrepareRequest, StartRequest } from '../core/api.ts'
import type { Limits } from '../core/envelope.ts'
import { type ErrorCode, EscrowError } from '../core/errors.ts'
import {
  type Destination,
  isMintedId,
  type Namespace,
  parseNamespace,
  parseTransactionId,
  type TransactionId,
} from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { SagaLimits } from '../core/saga/decision.ts'
import type { TransactionCommand } from '../core/transaction.ts'
import type { Store } from '../store/store.ts'
import type { Cluster } from './cluster.ts'
import type { Reply, RequestOptions } from './coordination.ts'
import { Question } from './entry.ts'
import { list } from './listing.ts'
import type { Logs } from './logs.ts'
import { routingsIn, TransactionMinting } from './minting.ts'
import type { Names } from './names.ts'
import type { Programs } from './programs.ts'
import { commandOf, type PolicyDefaults, parsePrepare } from './requests.ts'
import { parseStart, sagaCommandOf, slipOf } from './saga-requests.ts'
import type { Topics } from './topics.ts'

/** What the door of one opened store leads to. */
export interface DoorOptions {
  readonly store: Store
  readonly logs: Logs
  readonly names: Names
  readonly topics: Topics
  readonly programs: Programs
  /** Undefined where this node has the store to itself. */
  readonly cluster: Cluster | undefined
  readonly runtime: Runtime
  readonly limits: Limits
  readonly sagaLimits: SagaLimits
  readonly defaults: PolicyDefaults
  /** Reads the names anew that other nodes have registered; undefined where there are no others. */
  readonly readNames: (() => Promise<void>) | undefined
  /** Why a log is not here, where no node has it. */
  readonly absent: () => EscrowError
}

/** Who asks, and until when. */
interface Asked {
  readonly namespace: Namespace
  readonly reply: Reply
  /** By the monotonic clock. */
  readonly deadlineMs: number
  readonly options: RequestOptions
}

/** Another node may have registered the name since. */
const MAY_BE_KNOWN_BY_NOW: ReadonlySet<ErrorCode> = new Set([
  'unknownChecker',
  'unknownDestination',
  'unknownStep',
])

/** Takes requests: parses and bounds each, and hands it to the log that it concerns, here or at the node that has it. */
export class Door {
  readonly #options: DoorOptions
  readonly #minting: TransactionMinting
  #routings: readonly string[] = []

  constructor(options: DoorOptions) {
    this.#options = options
    this.#minting = new TransactionMinting(options.runtime)
    this.look()
  }

  /** The routing parts of ids that are best minted here. */
  get routings(): readonly string[] {
    return this.#routings
  }

  /** The logs that are driven here are others than before. */
  look(): void {
    const { logs } = this.#options
    this.#routings = routingsIn(
      logs.count,
      Array.from(logs.driven(), ([log]) => log),
    )
  }

  /** Takes a request; `reply` is called exactly once, later. Throws what it is refused with at once. */
  request(operation: OperationRequest, reply: Reply, options: RequestOptions): void {
    try {
      this.#take(operation, reply, options)
    } catch (thrown) {
      const error = EscrowError.from(thrown)
      if (!this.#mayLearn(error)) throw error
      void this.#takeLearnt(error, operation, reply, options)
    }
  }

  /** Whether what was refused may be known a moment later: another node has registered the name, or a topic is new. */
  #mayLearn({ code, details }: EscrowError): boolean {
    if (!MAY_BE_KNOWN_BY_NOW.has(code)) return false
    return details.topic !== undefined || this.#options.readNames !== undefined
  }

  /** Learns what was missing, and takes the request then; each look is made once, so this comes to an end. */
  async #takeLearnt(first: EscrowError, operation: OperationRequest, reply: Reply, options: RequestOptions) {
    const { readNames, topics } = this.#options
    const learnt = new Set<string>()
    // It may have been sent again meanwhile, and be over by now: so it is looked up.
    const later = { ...options, fresh: false }
    let error = first
    try {
      for (;;) {
        const topic = error.details.topic ?? ''
        if (learnt.has(topic)) throw error
        learnt.add(topic)
        if (topic !== '') await topics.register(topic as Destination)
        else await readNames?.()
        try {
          return this.#take(operation, reply, later)
        } catch (thrown) {
          error = EscrowError.from(thrown)
          if (!this.#mayLearn(error)) throw error
        }
      }
    } catch (thrown) {
      reply(EscrowError.from(thrown))
    }
  }

  #take(operation: OperationRequest, reply: Reply, options: RequestOptions): void {
    const { runtime, names } = this.#options
    const leftMs = options.deadlineMs - runtime.now()
    if (leftMs <= 0)
      throw new EscrowError('deadlineExceeded', 'the deadline had passed when the request came')
    const namespace = parseNamespace(operation.request.namespace ?? '')
    names.checkNamespace(namespace)
    const asked: Asked = { namespace, reply, deadlineMs: runtime.monotonic() + leftMs, options }
    if (operation.op === 'list') {
      void this.#list(namespace, operation.request, reply)
      return
    }
    const { id, isFresh } = this.#idOf(operation, options)
    const { logs } = this.#options
    const log = logs.logOf(id)
    const driver = logs.at(log)
    if (driver === undefined) return this.#elsewhere(log, operation, asked)
    const command = this.#commandOf(operation, namespace, id)
    const { op } = operation
    driver.submit(
      command,
      new Question({ op, namespace, id, fresh: isFresh, reply, deadlineMs: asked.deadlineMs }),
    )
  }

  /** The id that is asked about, or a new one for what begins without. */
  #idOf(
    { op, request }: Exclude<OperationRequest, { op: 'list' }>,
    { fresh }: RequestOptions,
  ): { readonly id: TransactionId; readonly isFresh: boolean } {
    if (op !== 'prepare' && op !== 'startSaga')
      return { id: parseTransactionId(request.id ?? ''), isFresh: false }
    const given = request.id ?? ''
    if (given !== '') return { id: parseTransactionId(given), isFresh: fresh }
    return { id: this.#minting.next(request.orderingKey ?? '', this.#routings), isFresh: true }
  }

  /** Parses what is asked; undefined for a read. Throws what it is refused with. */
  #commandOf(
    operation: Exclude<OperationRequest, { op: 'list' }>,
    namespace: Namespace,
    id: TransactionId,
  ): TransactionCommand | undefined {
    if (operation.op === 'prepare') return this.#prepare(operation.request, namespace, id)
    if (operation.op === 'startSaga') return this.#start(operation.request, namespace, id)
    return sagaCommandOf(operation) ?? commandOf(operation, this.#options.limits)
  }

  #prepare(request: PrepareRequest, namespace: Namespace, id: TransactionId): TransactionCommand {
    const { names, topics, logs, limits, defaults } = this.#options
    const executionId = logs.execution()
    const head = parsePrepare(request, {
      namespace,
      id,
      executionId,
      isMinted: isMintedId(id),
      limits,
      defaults,
    })
    names.checkChecker(namespace, head.checker)
    for (const message of head.messages) {
      names.checkDestination(namespace, message.destination)
      topics.checkMessage(message, head)
    }
    return { type: 'prepareMessage', head }
  }

  #start(request: StartRequest, namespace: Namespace, id: TransactionId): TransactionCommand {
    const { names, logs, programs, sagaLimits, runtime } = this.#options
    const slip = slipOf(request, sagaLimits)
    const program = slip === '' ? programs.named(request.saga, request.version ?? 0) : programs.slip(slip)
    names.checkSteps(namespace, program)
    return parseStart(request, {
      namespace,
      id,
      executionId: logs.execution(),
      isMinted: isMintedId(id),
      nowMs: runtime.now(),
      program,
      slip,
    })
  }

  /** Has the node do it that has the log, as it was asked: one hop. That one mints what has no id, in a log of its own. */
  #elsewhere(
    log: number,
    operation: Exclude<OperationRequest, { op: 'list' }>,
    { reply, options }: Asked,
  ): void {
    const { cluster, absent } = this.#options
    const owner = options.isForwarded === true ? undefined : cluster?.ownerOf(log)
    if (cluster === undefined || owner === undefined) throw absent()
    cluster.peers.forward(owner, operation, reply, options)
  }

  async #list(namespace: Namespace, request: ListRequest, reply: Reply): Promise<void> {
    const { store, runtime } = this.#options
    try {
      const progress = this.#progress()
      const response = await list(store, namespace, request, {
        asOfMs: Math.min(...progress.map(({ asOfMs }) => asOfMs)),
        outagesMsOf: ({ head }) => {
          const log = this.#options.logs.logOf(head.id)
          return progress.find((each) => each.log === log)?.outagesMs ?? 0
        },
      })
      reply(undefined, response)
    } catch (thrown) {
      const error = EscrowError.from(thrown)
      runtime.defer(() => reply(error))
    }
  }

  /** How far each log is, as far as is known here; one that nobody has is as old as can be. */
  #progress(): readonly { readonly log: number; readonly asOfMs: number; readonly outagesMs: number }[] {
    const { logs, cluster } = this.#options
    const told = new Map(cluster?.nodes().flatMap((node) => node.logs.map((each) => [each.log, each])))
    return Array.from({ length: logs.count }, (_, log) => {
      const { asOfMs = 0, outagesMs = 0 } = logs.at(log)?.progress ?? told.get(log) ?? {}
      return { log, asOfMs, outagesMs }
    })
  }
}
