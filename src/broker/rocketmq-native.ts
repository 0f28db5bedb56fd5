/**
 * RocketMQ's own transactional messages, in the service's process: RocketMQ holds the half message and asks the service, with the
 * same `TransactionChecker` that it registers with Escrow. For teams that have topics of type TRANSACTION and keep them.
 *
 * | step                                  | told to the caller                   | what settles the half message                      |
 * |---------------------------------------|--------------------------------------|----------------------------------------------------|
 * | half message sent, no confirmation    | `brokerUnavailable`, `work` not run  | a check-back, if it got there                      |
 * | `work` resolves, commit confirmed     | `committed`, acknowledged            | the commit; a check-back where the broker lost it  |
 * | `work` resolves, commit unconfirmed   | not acknowledged                     | a check-back                                       |
 * | `work` throws, in a COMMIT even       | what it threw                        | the checker, asked at once and by check-backs      |
 * | the process dies                      |                                      | a check-back to whoever serves the topic by then   |
 *
 * The guarantees are RocketMQ's, and differ from those of messages that Escrow holds:
 * - One message a transaction; no order, no delay, no body that is fixed at commit.
 * - A half message is discarded in silence after 15 check-backs (`transactionCheckMax`), which count while no service is there
 *   too: by default (`transactionCheckInterval` 30 s) after some 7.5 minutes without one. Escrow parks it.
 * - The check-back interval is the broker's, one for all topics; a transaction of more than 30 s is settled by check-back alone.
 * - A commit is acknowledged before it is durable; where the broker dies then, the check-back comes.
 * - A check-back reaches any service that has told the topic; one with another database answers nothing.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Message } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import definition from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import type { TelemetryCommand } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import service from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import type { CheckBackRequest, Resolution } from '../core/api.ts'
import type { Headers } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import type { BarrierSubject } from '../participant/barrier/run.ts'
import { type BodyInput, encodeBody } from '../participant/body.ts'
import { askChecker, type CheckerInput, type TransactionChecker, toChecker } from '../participant/checker.ts'
import { activeTrace } from '../participant/tracing.ts'
import { systemRuntime } from '../runtime.ts'
import { checkStatus, type LinkOptions, linkError, RocketmqLink, statusOf } from './rocketmq/link.ts'
import { toProtobuf } from './rocketmq/message.ts'
import { parseConnection, type RocketmqConnection, rocketmqGate } from './rocketmq/options.ts'
import type { RocketmqTelemetry } from './rocketmq/telemetry.ts'

/** Options of `rocketmqNative`. */
export interface RocketmqNativeOptions extends RocketmqConnection {
  /** All that are sent to, of type TRANSACTION: their check-backs come to this process. At least one. */
  readonly topics: readonly string[]
  /** Says how the local transactions ended: `barrier.checker`, or one of your own. */
  readonly checker: CheckerInput
  /** How long the checker may take; past it the answer is unknown, and it is asked again. 100-25,000; default 10,000. */
  readonly checkTimeoutMs?: number | undefined
}

/** A message that is delivered if, and only if, a local transaction commits. */
export interface NativeMessage {
  readonly topic: string
  /** Bytes as they are, a string as UTF-8 text, anything else as JSON. */
  readonly body: BodyInput
  /** Not empty, and without control characters; 16 KiB with everything that is added. The trace of the active OpenTelemetry context is. */
  readonly headers?: Headers | undefined
  /** For consumers (`escrow-key`); RocketMQ keeps no order in topics of type TRANSACTION. */
  readonly key?: string | undefined
  /** Default: what the kind of the body says. */
  readonly contentType?: string | undefined
}

/** The local transaction of a message, as `work` is given it; `barrier.run` takes it. */
export interface NativeTransaction extends BarrierSubject {
  readonly operation: 'local'
  /** Unique for ever; consumers see it as `escrow-id`, with `.0` behind. */
  readonly executionId: string
}

/** How a transaction came out of `sendInTransaction`. */
export interface NativeResult<T> {
  readonly executionId: string
  /** False when the local transaction is committed and RocketMQ has not confirmed that: the check-back settles it. */
  readonly acknowledged: boolean
  /** What `work` resolved to. */
  readonly value: T
  readonly error: EscrowError | undefined
}

/** A producer of transactional messages that answers check-backs until it is closed. */
export interface RocketmqNative {
  /**
   * Sends the half message, runs `work`, and commits: when it resolves, `work` has committed. What `work` throws comes through,
   * and the half message is then settled by what the checker says. Rejects before `work` is run with `unknownDestination` (a
   * topic that isn't among `topics`), `invalidArgument`, `tooLarge`, `brokerRefused`, `brokerUnavailable`: nothing was done then, and
   * it is safe to try again.
   */
  sendInTransaction<T>(
    message: NativeMessage,
    work: (tx: NativeTransaction) => Promise<T> | T,
  ): Promise<NativeResult<T>>
  /** Ends the connection: check-backs go to others, or come when this service is back. May be repeated. */
  close(): Promise<void>
}

/** The namespace of the barrier's rows. */
const NAMESPACE = 'rocketmq'
const DATABASE = 'escrow-database'
const CHECKS_MAX = 64
const FACTORY = 'rocketmqNative'
const { Code, ClientType, TransactionResolution, TransactionSource } = definition

/**
 * Connects, and serves the check-backs of `topics` from then on. Rejects with `invalidArgument` for wrong options,
 * `unknownDestination` for a topic that isn't there, `unsupported` for one that isn't of type TRANSACTION, `brokerRefused`, and with
 * `brokerUnavailable` when no proxy answers within `requestTimeoutMs`.
 */
export async function rocketmqNative(options: RocketmqNativeOptions): Promise<RocketmqNative> {
  const gate = rocketmqGate(FACTORY, options, ['topics', 'checker', 'checkTimeoutMs'])
  const link = parseConnection(gate, options)
  const { topics, checker } = options
  if (!Array.isArray(topics) || topics.length === 0 || !topics.every((each) => typeof each === 'string'))
    throw gate.invalid('topics', 'a list of at least one topic', topics ?? null)
  if (
    typeof checker !== 'function' &&
    typeof (checker as TransactionChecker | undefined)?.check !== 'function'
  )
    throw gate.invalid('checker', 'a checker')
  const checkTimeoutMs = gate.integer('checkTimeoutMs', 100, 25_000) ?? 10_000
  const producer = new NativeProducer(link, { topics, checker: toChecker(checker), checkTimeoutMs })
  try {
    await producer.open()
  } catch (error) {
    await producer.close()
    throw linkError(error)
  }
  return producer
}

interface Half {
  readonly topic: string
  readonly messageId: string
  readonly transactionId: string
}

class NativeProducer implements RocketmqNative {
  readonly #options: LinkOptions
  readonly #link: RocketmqLink
  readonly #topics: ReadonlySet<string>
  readonly #checker: TransactionChecker
  readonly #checkTimeoutMs: number
  readonly #telemetry: RocketmqTelemetry
  readonly #detach: () => void
  #checks = 0

  constructor(
    options: LinkOptions,
    serving: { topics: readonly string[]; checker: TransactionChecker; checkTimeoutMs: number },
  ) {
    this.#options = options
    this.#link = new RocketmqLink(options)
    this.#topics = new Set(serving.topics)
    this.#checker = serving.checker
    this.#checkTimeoutMs = serving.checkTimeoutMs
    this.#detach = serving.checker.attach?.(systemRuntime) ?? (() => {})
    this.#telemetry = this.#link.telemetry(
      () => this.#settings(),
      (command) => this.#command(command),
    )
  }

  async open(): Promise<void> {
    const signal = AbortSignal.timeout(this.#options.requestTimeoutMs)
    for (const topic of this.#topics) {
      const route = await this.#link.route(topic, signal)
      const types = route.getMessageQueuesList()[0]?.getAcceptMessageTypesList() ?? []
      if (!types.includes(definition.MessageType.TRANSACTION)) {
        throw new EscrowError(
          'unsupported',
          `topic ${topic} takes no transactional messages: mqadmin updateTopic -t ${topic} -a +message.type=TRANSACTION`,
        )
      }
    }
    while (!this.#telemetry.isKnown) {
      if (signal.aborted)
        throw new EscrowError(
          'brokerUnavailable',
          `RocketMQ does not know this service yet: ${this.#telemetry.error}`,
        )
      await sleep(20)
    }
  }

  #settings() {
    const publishing = new definition.Publishing().setTopicsList(
      [...this.#topics].map((topic) => this.#link.resource(topic)),
    )
    return new definition.Settings().setClientType(ClientType.PRODUCER).setPublishing(publishing)
  }

  async sendInTransaction<T>(
    message: NativeMessage,
    work: (tx: NativeTransaction) => Promise<T> | T,
  ): Promise<NativeResult<T>> {
    const executionId = randomUUID()
    const preparedAtMs = Date.now()
    const half = await this.#prepare(message, executionId)
    const databaseId = this.#checker.databaseId ?? ''
    let isAbandoned = false
    const tx: NativeTransaction = {
      operation: 'local',
      namespace: NAMESPACE,
      executionId,
      databaseId,
      ageMs: () => Date.now() - preparedAtMs,
      abandon: () => {
        isAbandoned = true
      },
    }
    let value: T
    try {
      value = await work(tx)
    } catch (error) {
      // Not waited for: where this word is lost, the broker asks as well.
      const question = { topic: message.topic, executionId, preparedAtMs, attempt: 1, headers: {} }
      this.#settle(half, question, TransactionSource.SOURCE_CLIENT).catch(() => {})
      throw error
    }
    try {
      await this.#end(half, isAbandoned ? 'rollback' : 'commit', TransactionSource.SOURCE_CLIENT)
      return { executionId, acknowledged: true, value, error: undefined }
    } catch (thrown) {
      return { executionId, acknowledged: false, value, error: linkError(thrown) }
    }
  }

  async #prepare(message: NativeMessage, executionId: string): Promise<Half> {
    const { topic } = message
    if (!this.#topics.has(topic)) {
      throw new EscrowError(
        'unknownDestination',
        `topic ${topic} is not among the topics of ${FACTORY}(): ${[...this.#topics].join(', ')}`,
      )
    }
    const sent = this.#message(message, executionId)
    await this.#link.ready()
    const answer = await this.#link
      .call((client) => client.sendMessage, new service.SendMessageRequest().setMessagesList([sent]))
      .catch((error) => {
        throw linkError(error)
      })
    checkSent(answer, topic)
    const entry = answer.getEntriesList()[0]
    return {
      topic,
      messageId: entry?.getMessageId() ?? '',
      transactionId: entry?.getTransactionId() ?? '',
    }
  }

  #message({ topic, body, headers, key, contentType }: NativeMessage, executionId: string): Message {
    const encoded = encodeBody('body', body)
    const trace = Object.entries(activeTrace()).filter(([, value]) => value !== '')
    const { databaseId } = this.#checker
    const added = databaseId === undefined || databaseId === '' ? {} : { [DATABASE]: databaseId }
    try {
      return toProtobuf(
        {
          topic,
          id: `${executionId}.0`,
          key: key ?? '',
          body: encoded.bytes,
          headers: { ...Object.fromEntries(trace), ...headers, ...added },
          contentType: contentType ?? encoded.contentType,
        },
        'half',
        this.#options.namespace,
      )
    } catch (cause) {
      throw new EscrowError('invalidArgument', (cause as Error).message, { cause })
    }
  }

  #command(command: TelemetryCommand): void {
    const orphan = command.getRecoverOrphanedTransactionCommand()
    const message = orphan?.getMessage()
    if (orphan === undefined || message === undefined) return
    // Too many at once are asked again.
    if (this.#checks >= CHECKS_MAX) return
    const headers = Object.fromEntries(message.getUserPropertiesMap().toArray()) as Headers
    const database = headers[DATABASE] ?? ''
    if (database !== (this.#checker.databaseId ?? '')) return
    const topic = message.getTopic()?.getName() ?? ''
    const system = message.getSystemProperties()
    const half = { topic, messageId: system?.getMessageId() ?? '', transactionId: orphan.getTransactionId() }
    const question = {
      topic,
      executionId: (headers['escrow-id'] ?? '').replace(/\.0$/, ''),
      preparedAtMs: system?.getBornTimestamp()?.toDate().getTime() ?? 0,
      attempt: Number(headers.TRANSACTION_CHECK_TIMES ?? 1),
      headers,
    }
    // One that Escrow did not send: whoever did must answer.
    if (question.executionId === '') return
    this.#settle(half, question, TransactionSource.SOURCE_SERVER_CHECK).catch(() => {})
  }

  /** Asks the checker, and settles the half message unless it doesn't know. */
  async #settle(half: Half, question: Question, source: 1 | 2): Promise<void> {
    this.#checks += 1
    try {
      const resolution = await this.#ask(question)
      if (resolution !== 'unknown') await this.#end(half, resolution, source)
    } finally {
      this.#checks -= 1
    }
  }

  async #ask({ topic, executionId, preparedAtMs, attempt, headers }: Question): Promise<Resolution> {
    const { traceparent = '', tracestate = '', baggage = '' } = headers
    const request: CheckBackRequest = {
      namespace: NAMESPACE,
      transactionId: executionId,
      executionId,
      attempt,
      checker: topic,
      preparedAtMs,
      trace: { traceparent, tracestate, baggage },
      timeoutMs: this.#checkTimeoutMs,
    }
    const late = new AbortController()
    const timeout = sleep(this.#checkTimeoutMs, undefined, { signal: late.signal }).catch(() => {})
    const answer = await Promise.race([askChecker(this.#checker, request), timeout])
    late.abort()
    return answer?.resolution ?? 'unknown'
  }

  async #end({ topic, messageId, transactionId }: Half, resolution: 'commit' | 'rollback', source: 1 | 2) {
    const request = new service.EndTransactionRequest()
      .setTopic(this.#link.resource(topic))
      .setMessageId(messageId)
      .setTransactionId(transactionId)
      .setResolution(resolution === 'commit' ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK)
      .setSource(source)
    checkStatus(await this.#link.call((client) => client.endTransaction, request), topic)
  }

  async close(): Promise<void> {
    if (this.#link.isClosed) return
    this.#detach()
    const leaving = new service.NotifyClientTerminationRequest()
    await this.#link
      .call((client) => client.notifyClientTermination, leaving, { timeoutMs: LEAVE_MS_MAX })
      .catch(() => {})
    this.#link.close()
  }
}

const LEAVE_MS_MAX = 1_000

interface Question {
  readonly topic: string
  readonly executionId: string
  readonly preparedAtMs: number
  readonly attempt: number
  readonly headers: Headers
}

/** Throws for a half message that wasn't taken. */
function checkSent(answer: InstanceType<typeof service.SendMessageResponse>, topic: string): void {
  const { code, message } = statusOf(answer)
  switch (code) {
    case Code.MESSAGE_BODY_TOO_LARGE:
    case Code.MESSAGE_PROPERTIES_TOO_LARGE:
    case Code.PAYLOAD_TOO_LARGE:
    case Code.REQUEST_HEADER_FIELDS_TOO_LARGE:
      throw new EscrowError('tooLarge', `RocketMQ does not take the message: ${message}`)
    case Code.ILLEGAL_MESSAGE_PROPERTY_KEY:
    case Code.ILLEGAL_MESSAGE_KEY:
    case Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE:
      throw new EscrowError('invalidArgument', `RocketMQ does not take the message: ${message}`)
    default:
      checkStatus(answer, topic)
  }
}
