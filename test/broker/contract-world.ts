/** What the tests of a broker's contract share. */
import { afterAll, afterEach, beforeAll } from 'vitest'
import type { Broker, BrokerMessage, TopicPolicy } from '../../src/broker/broker.ts'
import type { EscrowError } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import type { BrokerService } from '../services/broker-service.ts'

/** One adapter, as the suite uses it. */
export interface BrokerRow {
  /** Connects through the service's proxy. Default options otherwise. */
  open(policy?: TopicPolicy): Broker | Promise<Broker>
  /** Creates a topic by the broker's own means, ordered where the broker makes a difference. */
  createTopic(topic: string): Promise<void>
  /** Such a name as the broker accepts. Default: `test-N-RANDOM`. */
  readonly topicName?: ((base: string) => string) | undefined
  /** A topic exists as soon as it is named: nothing is ever missing. */
  readonly hasAllTopics?: boolean | undefined
  /** The server; undefined for an adapter without one, whose faults then are not tested. */
  readonly service: BrokerService | undefined
  /** What a single server lacks of `durability: 'replicated'`: the setting as the error names it. Undefined: it needs no replicas. */
  readonly notReplicated: RegExp | undefined
  /** A body of so many bytes is over the server's limit; undefined where no body is that Escrow takes (3 MiB). */
  readonly tooLargeBytes: number | undefined
  /** With wrong credentials; undefined where the server under test asks for none. */
  readonly openUnauthorized: (() => Broker | Promise<Broker>) | undefined
  /** Messages published per `publish` in the fault tests. Default 200. */
  readonly batch?: number | undefined
}

/** How long a test waits for what must come. */
export const TIMEOUT_MS = 60_000

/** One adapter under test. */
export class ContractWorld {
  #row: BrokerRow | undefined
  #names = 0
  readonly #open: Broker[] = []

  constructor(start: () => Promise<BrokerRow>) {
    beforeAll(async () => {
      this.#row = await start()
    }, 180_000)
    afterEach(async () => {
      this.#row?.service?.proxy.heal()
      await Promise.all(this.#open.splice(0).map((broker) => broker.close()))
    })
    afterAll(() => this.#row?.service?.stop())
  }

  get row(): BrokerRow {
    if (this.#row === undefined) throw new Error('the broker has not been started')
    return this.#row
  }

  closeAfter(broker: Broker): void {
    this.#open.push(broker)
  }

  async connect(policy?: TopicPolicy): Promise<Broker> {
    const broker = await this.row.open(policy)
    this.#open.push(broker)
    return broker
  }

  newName(): string {
    this.#names += 1
    const base = `test-${this.#names}-${Math.random().toString(36).slice(2, 8)}`
    return this.row.topicName?.(base) ?? base
  }

  async newTopic(): Promise<string> {
    const topic = this.newName()
    await this.row.createTopic(topic)
    return topic
  }

  /** A broker with a topic that is registered. */
  async withTopic(): Promise<{ broker: Broker; topic: string }> {
    const broker = await this.connect()
    const topic = await this.newTopic()
    await broker.register(topic, AbortSignal.timeout(TIMEOUT_MS))
    return { broker, topic }
  }

  /** What a group gets, as it comes. */
  async collect(broker: Broker, topic: string, group = 'readers') {
    const got: BrokerMessage[] = []
    const subscription = await broker.subscribe({ topic, group }, async (one) => {
      got.push(one)
    })
    return { got, subscription }
  }
}

export const message = (topic: string, id: string, key: string): BrokerMessage => ({
  topic,
  id,
  key,
  body: Buffer.from(JSON.stringify({ id, key })),
  headers: {},
  contentType: 'application/json',
})

export async function publish(broker: Broker, batch: readonly BrokerMessage[]): Promise<readonly string[]> {
  const outcomes = await broker.publish(batch, AbortSignal.timeout(TIMEOUT_MS))
  return outcomes.map(({ outcome }) => outcome)
}

/** Publishes until it is confirmed. */
export async function published(broker: Broker, one: BrokerMessage): Promise<void> {
  await until(
    `${one.id} is published`,
    async () => {
      const [outcome] = await broker.publish([one], AbortSignal.timeout(5_000))
      return outcome?.outcome === 'published' || undefined
    },
    TIMEOUT_MS,
  )
}

/** The error that a promise rejects with. */
export async function rejected(promise: Promise<unknown>): Promise<EscrowError> {
  try {
    await promise
  } catch (error) {
    return error as EscrowError
  }
  throw new Error('it was not rejected')
}
