/**
 * One reader of one topic in one group. RocketMQ hides what it has given out for a while (the invisible time) and gives it out
 * again unless it is acknowledged.
 *
 * | a message is | in this process                              | at the broker                     | leaves by                            |
 * |--------------|----------------------------------------------|-----------------------------------|--------------------------------------|
 * | waiting      | behind its key, or for a free place          | hidden, prolonged every 5 s       | its turn; `close` → given back       |
 * | handled      | its handler runs                             | hidden, prolonged                 | resolves → done; rejects → pausing   |
 * | pausing      | 0.1-5 s, before the same handler again       | hidden, prolonged                 | the pause's end; `close` → given back |
 * | done         | in an ordered topic it waits for those before it in its queue | hidden           | acknowledged                         |
 *
 * Acknowledgements of an ordered queue go in its order: a broker that has lost in a crash what it had given out takes one for
 * all messages before it.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { createDuration } from 'rocketmq-client-nodejs/dist/util/index.js'
import type { Message } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import definition from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import service from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import { boundMs } from '../../core/backoff.ts'
import type { BrokerMessage, SubscribeOptions, Subscription } from '../broker.ts'
import { type RocketmqLink, statusOf } from './link.ts'
import { fromProtobuf } from './message.ts'
import type { RocketmqTelemetry } from './telemetry.ts'

const INVISIBLE_MS = 20_000
const PROLONG_MS = 5_000
/** How long a proxy waits for messages; it knows no less. */
const POLL_MS = 5_000
const POLL_SLACK_MS = 2_000
/** Of what is given back: it comes again after that. */
const GIVEN_BACK_MS = 1_000
const GIVE_BACK_MS_MAX = 2_000
const RECEIVE_MAX = 32
const PAUSE = { delayMs: 100, delayMsMax: 5_000 }
const { Code } = definition

interface Held {
  readonly message: BrokerMessage
  readonly messageId: string
  readonly queueId: number
  handle: string
  isDone: boolean
}

/** See the file's comment. */
export class RocketmqReader implements Subscription {
  readonly #link: RocketmqLink
  readonly #options: SubscribeOptions
  readonly #handle: (message: BrokerMessage) => Promise<void>
  readonly #telemetry: RocketmqTelemetry
  readonly #concurrencyMax: number
  readonly #held = new Set<Held>()
  readonly #lanes = new Map<unknown, Promise<void>>()
  readonly #polling = new AbortController()
  readonly #timer: NodeJS.Timeout
  #reading: Promise<void> = Promise.resolve()
  #running = 0
  #isOrdered = false
  /** Those that wait for a free place, or for room. */
  #waiting: (() => void)[] = []

  constructor(
    link: RocketmqLink,
    options: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ) {
    this.#link = link
    this.#options = options
    this.#handle = handle
    this.#concurrencyMax = options.concurrencyMax ?? 16
    this.#telemetry = link.telemetry(
      () => this.#settings(),
      () => {},
    )
    this.#timer = setInterval(() => this.#prolong(), PROLONG_MS).unref()
  }

  /** Whether the group consumes in order, as the proxy says; rejects where no proxy has said so in time. */
  async isOrdered(signal: AbortSignal): Promise<boolean> {
    while (!this.#telemetry.isKnown) {
      if (signal.aborted) throw new Error(this.#telemetry.error)
      await sleep(20)
    }
    return (await this.#telemetry.settings()).getSubscription()?.getFifo() === true
  }

  /** Reads from now on. */
  begin(): void {
    this.#reading = this.#read()
  }

  async close(): Promise<void> {
    await this.#stop()
    await Promise.allSettled(this.#lanes.values())
    await this.#end()
  }

  /** Ends it without waiting for what is handled: that comes again. */
  async abandon(): Promise<void> {
    await this.#stop()
    await this.#end()
  }

  // A proxy that is asked for messages goes on waiting for them, whoever has left, and hides those that come: up to 5 s.
  async #stop(): Promise<void> {
    this.#polling.abort()
    this.#wake()
    await this.#reading
  }

  async #end(): Promise<void> {
    clearInterval(this.#timer)
    if (this.#link.isClosed) return
    const bounds = { timeoutMs: GIVE_BACK_MS_MAX }
    const left = [...this.#held].map((held) => this.#hide(held, GIVEN_BACK_MS, GIVE_BACK_MS_MAX))
    const leaving = new service.NotifyClientTerminationRequest().setGroup(
      this.#link.resource(this.#options.group),
    )
    await Promise.allSettled(left)
    await this.#link.call((client) => client.notifyClientTermination, leaving, bounds).catch(() => {})
    this.#link.close()
  }

  #settings() {
    const { topic, group } = this.#options
    const subscription = new definition.Subscription()
      .setGroup(this.#link.resource(group))
      .setLongPollingTimeout(createDuration(POLL_MS))
    subscription.addSubscriptions().setTopic(this.#link.resource(topic)).setExpression(everything())
    return new definition.Settings()
      .setClientType(definition.ClientType.SIMPLE_CONSUMER)
      .setSubscription(subscription)
  }

  async #read(): Promise<void> {
    let failures = 0
    // The same attempt asked again gets what its lost answer held, at once.
    let attemptId = randomUUID()
    while (!this.#polling.signal.aborted) {
      if (this.#held.size >= this.#concurrencyMax + RECEIVE_MAX) {
        await new Promise<void>((resolve) => this.#waiting.push(resolve))
        continue
      }
      try {
        this.#isOrdered = (await this.#known()).getSubscription()?.getFifo() === true
        await this.#link.ready(this.#polling.signal)
        for (const message of await this.#receive(attemptId)) this.#take(message)
        attemptId = randomUUID()
        failures = 0
      } catch {
        failures += 1
        const pauseMs = boundMs(PAUSE, failures) * (0.5 + Math.random() / 2)
        await sleep(pauseMs, undefined, { signal: this.#polling.signal, ref: false }).catch(() => {})
      }
    }
  }

  /** Waits until a proxy knows this reader, or until it ends. */
  async #known() {
    const ended = Promise.withResolvers<never>()
    const end = () => ended.reject(new Error('the reader ends'))
    this.#polling.signal.addEventListener('abort', end, { once: true })
    try {
      return await Promise.race([this.#telemetry.settings(), ended.promise])
    } finally {
      this.#polling.signal.removeEventListener('abort', end)
    }
  }

  async #receive(attemptId: string): Promise<readonly Message[]> {
    const { topic, group } = this.#options
    const queue = new definition.MessageQueue().setTopic(this.#link.resource(topic)).setId(-1)
    const request = new service.ReceiveMessageRequest()
      .setGroup(this.#link.resource(group))
      .setMessageQueue(queue.setBroker(new definition.Broker()))
      .setFilterExpression(everything())
      .setBatchSize(Math.min(RECEIVE_MAX, this.#concurrencyMax * 2))
      .setInvisibleDuration(createDuration(INVISIBLE_MS))
      .setLongPollingTimeout(createDuration(POLL_MS))
      .setAttemptId(attemptId)
    const answers = await this.#link.receive(request, POLL_MS + POLL_SLACK_MS)
    const failed = answers.find(
      (one) => one.hasStatus() && ![Code.OK, Code.MESSAGE_NOT_FOUND].includes(statusOf(one).code),
    )
    if (failed !== undefined) {
      // It may have forgotten who this is.
      this.#telemetry.tell()
      throw new Error(statusOf(failed).message)
    }
    return answers.flatMap((one) => one.getMessage() ?? [])
  }

  #take(received: Message): void {
    const system = received.getSystemProperties()
    const held: Held = {
      message: fromProtobuf(received),
      messageId: system?.getMessageId() ?? '',
      queueId: system?.getQueueId() ?? 0,
      handle: system?.getReceiptHandle() ?? '',
      isDone: false,
    }
    this.#held.add(held)
    const lane = held.message.key === '' ? held : held.message.key
    const before = this.#lanes.get(lane) ?? Promise.resolve()
    const running = before.then(() => this.#attend(held))
    this.#lanes.set(lane, running)
    running.finally(() => {
      if (this.#lanes.get(lane) === running) this.#lanes.delete(lane)
    })
  }

  async #attend(held: Held): Promise<void> {
    for (let attempt = 1; !this.#polling.signal.aborted; attempt++) {
      while (this.#running >= this.#concurrencyMax && !this.#polling.signal.aborted)
        await new Promise<void>((resolve) => this.#waiting.push(resolve))
      if (this.#polling.signal.aborted) return
      this.#running += 1
      try {
        await this.#handle(held.message)
        held.isDone = true
      } catch {
        // It is tried again below.
      } finally {
        this.#running -= 1
        this.#wake()
      }
      if (held.isDone) return await this.#acknowledge(held)
      await sleep(boundMs(PAUSE, attempt), undefined, { signal: this.#polling.signal }).catch(() => {})
    }
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  async #acknowledge(held: Held): Promise<void> {
    if (!this.#isOrdered) return await this.#send([held])
    const ready: Held[] = []
    for (const each of this.#held) {
      if (each.queueId !== held.queueId) continue
      if (!each.isDone) break
      ready.push(each)
    }
    await this.#send(ready)
  }

  /** One that doesn't get there brings its message again. */
  async #send(done: readonly Held[]): Promise<void> {
    if (done.length === 0) return
    for (const each of done) this.#held.delete(each)
    this.#wake()
    const { topic, group } = this.#options
    const request = new service.AckMessageRequest()
      .setGroup(this.#link.resource(group))
      .setTopic(this.#link.resource(topic))
    for (const { messageId, handle } of done)
      request.addEntries().setMessageId(messageId).setReceiptHandle(handle)
    await this.#link.call((client) => client.ackMessage, request, { waits: true }).catch(() => {})
  }

  #prolong(): void {
    for (const held of this.#held) this.#hide(held, INVISIBLE_MS, PROLONG_MS).catch(() => {})
  }

  async #hide(held: Held, forMs: number, timeoutMs: number): Promise<void> {
    const { topic, group } = this.#options
    const request = new service.ChangeInvisibleDurationRequest()
      .setGroup(this.#link.resource(group))
      .setTopic(this.#link.resource(topic))
      .setReceiptHandle(held.handle)
      .setMessageId(held.messageId)
      .setInvisibleDuration(createDuration(forMs))
    const answer = await this.#link.call((client) => client.changeInvisibleDuration, request, { timeoutMs })
    if (statusOf(answer).code === Code.OK) held.handle = answer.getReceiptHandle() || held.handle
  }
}

const everything = () =>
  new definition.FilterExpression().setType(definition.FilterType.TAG).setExpression('*')
