/**
 * RocketMQ 5, through its gRPC proxies (`rocketmq-client-nodejs`), with the half messages held by Escrow. For those that RocketMQ
 * holds see `rocketmq-native.ts`.
 *
 * | guarantee             | here                                                                                        |
 * |-----------------------|---------------------------------------------------------------------------------------------|
 * | confirm               | the proxy's answer: flushed and replicated as the broker is set (`flushDiskType`, `brokerRole`) |
 * | order                 | FIFO topics: by key, one message of a key under way; read by a group that consumes in order. Other topics: none |
 * | duplicates            | after a failure whose outcome nobody told, and of what a reader had not acknowledged: by `escrow-id` |
 * | delay                 | Escrow holds delayed messages; topics of type DELAY and TRANSACTION are refused at registration |
 * | trace headers         | `traceparent` in the user properties                                                        |
 * | maximum size          | the proxy's `maxMessageSize` of the body, 4 MiB; headers together 16 KiB, without control characters |
 * | what `replicated` asks | each broker of the topic: `brokerRole`, `inSyncReplicas`, `minInSyncReplicas`; with `nameServers` only |
 *
 * What a user should know of RocketMQ, and finds nowhere else:
 * - Each message is a request of its own: see `rocketmq-publisher.ts`. A key's messages go one after the other.
 * - A group that never read begins at the newest messages where a topic's old ones have left the page cache, unless somebody
 *   sets its offsets: with `nameServers` this adapter does, without them it can't, nor create topics and groups or tell the lag.
 * - A group must be told to consume in order (`mqadmin updateSubGroup -o true`), or a FIFO topic isn't.
 * - What a reader had in hand when it died comes again after 20 s, up to 5 s more; in a FIFO topic its queue waits for that.
 *   The lag of a group that doesn't consume in order leaves out what readers have in hand.
 * - What a handler rejects is tried again in this process for as long as it lives, and so never counts as one of the 16
 *   deliveries after which RocketMQ puts a message aside; each death of a reader with a message in hand counts.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import definition from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import service from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import { EscrowError } from '../core/errors.ts'
import type {
  Broker,
  BrokerMessage,
  PublishOutcome,
  SubscribeOptions,
  Subscription,
  Topic,
  TopicPolicy,
} from './broker.ts'
import { type Master, RocketmqAdmin } from './rocketmq/admin.ts'
import { checkStatus, type LinkOptions, linkError, RocketmqLink } from './rocketmq/link.ts'
import { faultOf } from './rocketmq/message.ts'
import { parseAddresses, parseConnection, type RocketmqConnection, rocketmqGate } from './rocketmq/options.ts'
import { RocketmqPublisher } from './rocketmq/publisher.ts'
import { RocketmqReader } from './rocketmq/reader.ts'
import { within } from './within.ts'

/** Options of `rocketmq`. */
export interface RocketmqOptions extends RocketmqConnection, TopicPolicy {
  /**
   * The name servers, `host:port` with commas. They and the brokers that they name are asked directly for what proxies can't
   * tell: the settings that `durability` is about, creating topics and groups, where a new group begins, the lag. Default: none;
   * then `durability: 'replicated'` and `missingTopics: 'create'` are refused.
   */
  readonly nameServers?: string | undefined
}

/** What a proxy said of a topic. */
type TopicKind = 'ordered' | 'plain' | 'either'

const KIND = 'rocketmq'
const { MessageType } = definition

/** RocketMQ for `brokers` in the configuration. Throws `invalidArgument` for wrong options; connects at first use. */
export function rocketmq(options: RocketmqOptions): Broker {
  const gate = rocketmqGate(KIND, options, ['nameServers', 'durability', 'missingTopics'])
  const link = parseConnection(gate, options)
  const policy = gate.topicPolicy()
  const { durability, missingTopics } = policy
  const { nameServers } = options
  if (nameServers !== undefined) {
    const { credentials, requestTimeoutMs } = link
    const addresses = parseAddresses(gate, 'nameServers', nameServers)
    const admin = new RocketmqAdmin({ nameServers: addresses, credentials, requestTimeoutMs })
    return new RocketmqBroker(link, admin, policy)
  }
  if (durability === 'replicated')
    throw gate.invalid('durability', 'checked without the option nameServers', durability)
  if (missingTopics === 'create')
    throw gate.invalid('missingTopics', 'possible without the option nameServers', missingTopics)
  return new RocketmqBroker(link, undefined, policy)
}

class RocketmqBroker implements Broker {
  readonly kind = KIND
  readonly faultOf = faultOf
  readonly #options: LinkOptions
  readonly #admin: RocketmqAdmin | undefined
  readonly #policy: Required<TopicPolicy>
  /** Of the topics that a proxy has told of. */
  readonly #types = new Map<string, readonly number[]>()
  readonly #readers = new Set<RocketmqReader>()
  #publishing: { readonly link: RocketmqLink; readonly publisher: RocketmqPublisher } | undefined
  #isClosed = false

  constructor(options: LinkOptions, admin: RocketmqAdmin | undefined, policy: Required<TopicPolicy>) {
    this.#options = options
    this.#admin = admin
    this.#policy = policy
  }

  #open() {
    if (this.#isClosed) throw new EscrowError('brokerUnavailable', 'the RocketMQ adapter is closed')
    if (this.#publishing !== undefined) return this.#publishing
    const link = new RocketmqLink(this.#options)
    this.#publishing = { link, publisher: new RocketmqPublisher(link, this.#options) }
    return this.#publishing
  }

  async register(name: string, signal: AbortSignal): Promise<Topic> {
    const { link } = this.#open()
    if (this.#policy.missingTopics === 'create') await this.#create(name, signal)
    const kind = await this.#kindOf(name, signal)
    const { replication, others } = await this.#shortfalls(name)
    if (this.#policy.durability === 'replicated' && replication.length > 0) {
      throw new EscrowError(
        'notDurable',
        `topic ${name} may lose confirmed messages when one machine dies: ${replication.join('; ')}`,
      )
    }
    const messageBytesMax = await bodyBytesMax(link, name, this.#options, signal)
    return { messageBytesMax, isOrdered: kind !== 'plain', shortfalls: [...replication, ...others] }
  }

  /** What a topic takes from Escrow. */
  async #kindOf(topic: string, signal: AbortSignal): Promise<TopicKind> {
    const types = await this.#typesOf(topic, signal)
    const isOrdered = types.includes(MessageType.FIFO)
    const isPlain = types.includes(MessageType.NORMAL)
    if (isOrdered) return isPlain ? 'either' : 'ordered'
    if (isPlain) return 'plain'
    throw new EscrowError(
      'unsupported',
      `topic ${topic} is of type ${types.map(nameOfType).join(', ')}: Escrow holds its messages itself, and publishes to topics of type NORMAL, FIFO or MIXED`,
    )
  }

  async #typesOf(topic: string, signal: AbortSignal): Promise<readonly number[]> {
    const known = this.#types.get(topic)
    if (known !== undefined) return known
    const route = await this.#open().link.route(topic, signal)
    const types = route.getMessageQueuesList()[0]?.getAcceptMessageTypesList() ?? []
    this.#types.set(topic, types)
    return types
  }

  // Before a proxy is asked, which would remember for 20 s that there is no such topic.
  async #create(topic: string, signal: AbortSignal): Promise<void> {
    const admin = this.#admin as RocketmqAdmin
    if ((await admin.masters(topic)).length > 0) return
    await admin.createTopic(topic, 'FIFO')
    while ((await admin.masters(topic)).length === 0) {
      if (signal.aborted)
        throw new EscrowError(
          'brokerUnavailable',
          `the name server knows nothing yet of the new topic ${topic}`,
        )
      await sleep(CREATED_PAUSE_MS)
    }
  }

  async #shortfalls(topic: string): Promise<{ replication: readonly string[]; others: readonly string[] }> {
    if (this.#admin === undefined) {
      const unknown = 'how its brokers flush and replicate is not known: the option nameServers is not set'
      return { replication: [unknown], others: [] }
    }
    const replication: string[] = []
    const others: string[] = []
    for (const master of await this.#admin.masters(topic)) {
      const config = await this.#admin.brokerConfig(master)
      replication.push(...replicationShortfalls(master, config))
      if (config.get('flushDiskType') !== 'SYNC_FLUSH')
        others.push(`${master.name}: flushDiskType is ${config.get('flushDiskType')}`)
    }
    return { replication, others }
  }

  async publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    const topic = batch[0]?.topic
    if (topic === undefined) return []
    try {
      const { link, publisher } = this.#open()
      await link.ready(signal)
      const kind = await this.#kindOf(topic, signal)
      const outcomes = await publisher.publish(batch, (key) => kindFor(kind, key), signal)
      // Somebody may have changed what the topic is: the next batch asks.
      if (publisher.hasMismatch) this.#types.delete(topic)
      return outcomes
    } catch (thrown) {
      const { code, message: error } = EscrowError.from(thrown)
      // A topic that has gone is nothing that waiting alone would heal: that counts as an attempt.
      const outcome = code === 'brokerUnavailable' || code === 'brokerRefused' ? 'unreachable' : 'failed'
      return batch.map(() => ({ outcome, error }))
    }
  }

  async subscribe(
    options: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription> {
    const { topic, group, from = 'earliest' } = options
    if (!GROUP.test(group))
      throw new EscrowError(
        'invalidArgument',
        `group ${JSON.stringify(group)} is not 1-255 of A-Z a-z 0-9 % | _ -`,
      )
    const signal = AbortSignal.timeout(this.#options.requestTimeoutMs)
    const isOrdered = (await this.#typesOf(topic, signal)).includes(MessageType.FIFO)
    for (const master of (await this.#admin?.masters(topic)) ?? []) {
      await this.#admin?.createGroup(master, group, isOrdered)
      await this.#admin?.beginAt(master, topic, group, from)
    }
    const reader = new RocketmqReader(new RocketmqLink(this.#options), options, handle)
    try {
      if (isOrdered && !(await reader.isOrdered(signal))) {
        throw new EscrowError(
          'unsupported',
          `group ${group} does not consume in order, as FIFO topic ${topic} needs: mqadmin updateSubGroup -g ${group} -o true`,
        )
      }
    } catch (thrown) {
      await reader.abandon()
      throw linkError(thrown)
    }
    this.#readers.add(reader)
    reader.begin()
    return { close: () => this.#leave(reader) }
  }

  async #leave(reader: RocketmqReader): Promise<void> {
    this.#readers.delete(reader)
    await reader.close()
  }

  async lag(topic: string, group: string): Promise<number> {
    const admin = this.#admin
    if (admin === undefined) {
      throw new EscrowError(
        'unsupported',
        'a RocketMQ proxy tells no lag: set the option nameServers of rocketmq()',
      )
    }
    await this.#typesOf(topic, AbortSignal.timeout(this.#options.requestTimeoutMs))
    // What came back to a group that doesn't consume in order waits in a topic of its own.
    const counted = [topic, `%RETRY%${group}_${topic}`]
    let lag = 0
    for (const each of counted)
      for (const master of await admin.masters(each)) lag += await admin.lag(master, each, group)
    return lag
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#readers].map((reader) => reader.abandon()))
    this.#readers.clear()
    this.#publishing?.publisher.close()
    this.#publishing?.link.close()
  }
}

const CREATED_PAUSE_MS = 100
const GROUP = /^[%|a-zA-Z0-9_-]{1,255}$/

function kindFor(kind: TopicKind, key: string): 'ordered' | 'plain' {
  if (kind === 'either') return key === '' ? 'plain' : 'ordered'
  return kind
}

function nameOfType(type: number): string {
  return Object.entries(MessageType).find(([, value]) => value === type)?.[0] ?? String(type)
}

/**
 * In which ways a broker may confirm what is on one machine alone. Source: apache/rocketmq, `store/CommitLog.java`: only a
 * SYNC_MASTER waits for replicas, and only where `inSyncReplicas` (itself counted) is over 1.
 */
function replicationShortfalls({ name }: Master, config: ReadonlyMap<string, string>): readonly string[] {
  const told: string[] = []
  const replicas = (setting: string) => Number(config.get(setting) ?? 1)
  if (config.get('brokerRole') !== 'SYNC_MASTER') told.push(`brokerRole is ${config.get('brokerRole')}`)
  const waitsForAll =
    config.get('enableControllerMode') === 'true' && config.get('allAckInSyncStateSet') === 'true'
  if (!waitsForAll && replicas('inSyncReplicas') < 2)
    told.push(`inSyncReplicas is ${replicas('inSyncReplicas')}`)
  const mayShrink = waitsForAll || config.get('enableAutoInSyncReplicas') === 'true'
  if (mayShrink && replicas('minInSyncReplicas') < 2)
    told.push(`minInSyncReplicas is ${replicas('minInSyncReplicas')}`)
  return told.map((each) => `${name}: ${each}`)
}

/** Asks the proxy, which tells it to whoever says that it will publish. */
async function bodyBytesMax(
  link: RocketmqLink,
  topic: string,
  options: LinkOptions,
  signal: AbortSignal,
): Promise<number> {
  const asking = new RocketmqLink(options)
  try {
    await asking.ready(signal)
    const publishing = new definition.Publishing().setTopicsList([link.resource(topic)])
    const settings = new definition.Settings()
      .setClientType(definition.ClientType.PRODUCER)
      .setPublishing(publishing)
    const telemetry = asking.telemetry(
      () => settings,
      () => {},
    )
    const timeout = AbortSignal.any([signal, AbortSignal.timeout(options.requestTimeoutMs)])
    const late = () => new EscrowError('brokerUnavailable', 'RocketMQ did not tell its settings in time')
    const told = await within(telemetry.settings(), timeout, late)
    const left = await asking.call(
      (client) => client.notifyClientTermination,
      new service.NotifyClientTerminationRequest(),
    )
    checkStatus(left, topic)
    return told.getPublishing()?.getMaxBodySize() ?? Number.POSITIVE_INFINITY
  } catch (thrown) {
    throw linkError(thrown)
  } finally {
    asking.close()
  }
}
