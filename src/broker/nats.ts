/**
 * NATS JetStream as a broker: a topic is a subject, which one stream binds.
 *
 * | what                     | how                                                                                |
 * |--------------------------|------------------------------------------------------------------------------------|
 * | confirm                  | the stream's acknowledgement: a majority of its replicas has it, and has not synced it to the disk: servers do that every two minutes, unless `sync_interval: always` is set (from 2.10) |
 * | order                    | the subject's; of one key, a message is sent when the one before it is confirmed   |
 * | duplicates after a crash | removed by the stream itself within its `duplicate_window`, by `Nats-Msg-Id`; consumers deduplicate by `escrow-id` what comes later, and what they had handled but not acknowledged |
 * | delay                    | Escrow holds delayed messages itself                                               |
 * | trace headers            | headers of the message                                                             |
 * | maximum size             | the server's `max_payload` (1 MiB by default), or the stream's `max_msg_size`      |
 * | `replicated`             | refuses `num_replicas` below 2, and a stream with `no_ack`                         |
 *
 * Needs a server with headers and JetStream, 2.9 or later.
 */
import {
  DiscardPolicy,
  JetStreamApiError,
  type JetStreamManager,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from '@nats-io/jetstream'
import type { TlsOptions } from '@nats-io/transport-node'
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
import { Connector } from './connector.ts'
import { type NatsAddress, NatsConnection, natsError } from './nats/connection.ts'
import { faultOf, NatsPublisher } from './nats/publisher.ts'
import { consumerOf, missingStream, NatsReader } from './nats/reader.ts'
import { OptionGate } from './option-gate.ts'
import { Readers } from './readers.ts'

/** Options of `nats`. */
export interface NatsOptions extends TopicPolicy {
  /** `host:port` of one or several servers of one cluster, at most 32. Default `127.0.0.1:4222`. */
  readonly servers?: string | readonly string[] | undefined
  /** Together with `password`; or `token` instead of both. */
  readonly user?: string | undefined
  readonly password?: string | undefined
  readonly token?: string | undefined
  /** For TLS: `ca`, `cert`, `key` or the same as files. Whether there is any, the server says. */
  readonly tls?: Omit<TlsOptions, 'handshakeFirst'> | undefined
  /** Of a stream that is created here; 1-5. Default 3 where `durability` is `replicated`, else 1. */
  readonly replicas?: number | undefined
  /** After so long without a sign of life from its reader, a message goes to another one; 1,000-3,600,000. Default 10,000. */
  readonly ackWaitMs?: number | undefined
  /** For connecting; milliseconds, 100-60,000. Default 5,000. */
  readonly connectTimeoutMs?: number | undefined
}

const REQUEST_MS_MAX = 10_000
/** How many bytes headers take beside names and values, nearly. */
const HEADER_BYTES = 512

/**
 * Publishes on subjects of NATS JetStream. Throws `invalidArgument` for a wrong option; connects at first use.
 */
export function nats(options: NatsOptions = {}): Broker {
  return new NatsBroker(parse(options))
}

type Settings = ReturnType<typeof parse>

class NatsBroker implements Broker {
  readonly kind = 'nats'
  readonly faultOf = faultOf
  readonly #settings: Settings
  readonly #main: Connector<NatsConnection>
  readonly #publisher = new NatsPublisher()
  readonly #readers = new Readers<NatsReader>()

  constructor(settings: Settings) {
    this.#settings = settings
    this.#main = new Connector('nats', () => NatsConnection.open(settings.address))
  }

  async register(topic: string, signal: AbortSignal): Promise<Topic> {
    checkSubject(topic)
    const { missingTopics, durability } = this.#settings
    const connection = await this.#main.get(signal)
    return await this.#bounded(connection, signal, async (manager) => {
      const name = await streamOf(manager, topic)
      if (name === undefined && missingTopics === 'refuse') throw missingStream(topic)
      const { config } =
        name === undefined ? await this.#create(manager, topic) : await manager.streams.info(name)
      const { onMachineLoss, otherwise } = shortfallsOf(config)
      if (durability === 'replicated' && onMachineLoss.length > 0)
        throw new EscrowError('notDurable', `nats: ${topic} is not replicated: ${onMachineLoss.join('; ')}`)
      this.#publisher.streams.set(topic, config.name)
      const ofStream = config.max_msg_size > 0 ? config.max_msg_size : Number.POSITIVE_INFINITY
      return {
        messageBytesMax: Math.min(connection.payloadBytesMax, ofStream) - HEADER_BYTES,
        isOrdered: true,
        shortfalls: [...onMachineLoss, ...otherwise],
      }
    })
  }

  async #create(manager: JetStreamManager, topic: string) {
    return await manager.streams.add({
      name: cleanName(topic),
      subjects: [topic],
      num_replicas: this.#settings.replicas,
      storage: StorageType.File,
      retention: RetentionPolicy.Limits,
    })
  }

  async #bounded<T>(
    connection: NatsConnection,
    signal: AbortSignal,
    ask: (manager: JetStreamManager) => Promise<T>,
  ): Promise<T> {
    const asked = jetstreamManager(connection.client, { checkAPI: false }).then(ask)
    return await this.#main.answer(connection, asked, signal, natsError)
  }

  publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    return this.#main.publish(this.#publisher, batch, signal)
  }

  async subscribe(
    options: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription> {
    const { topic, group } = options
    checkSubject(topic)
    const { address, ackWaitMs, missingTopics } = this.#settings
    if (missingTopics === 'create') await this.register(topic, AbortSignal.timeout(REQUEST_MS_MAX))
    const reader = new NatsReader({
      ...options,
      handle,
      ackWaitMs,
      consumer: consumerName(topic, group),
      findStream: (manager) => streamOf(manager, topic),
      connector: new Connector('nats', () => NatsConnection.open(address)),
    })
    return await this.#readers.start(reader).catch((error) => {
      throw natsError(error)
    })
  }

  async lag(topic: string, group: string): Promise<number> {
    const signal = AbortSignal.timeout(REQUEST_MS_MAX)
    const connection = await this.#main.get(signal)
    return await this.#bounded(connection, signal, async (manager) => {
      const stream = await streamOf(manager, topic)
      if (stream === undefined) throw missingStream(topic)
      const consumer = await consumerOf(manager, stream, consumerName(topic, group))
      if (consumer !== undefined) return consumer.num_pending + consumer.num_ack_pending
      const { state } = await manager.streams.info(stream, { subjects_filter: topic })
      return state.subjects?.[topic] ?? 0
    })
  }

  async close(): Promise<void> {
    await this.#readers.abandon()
    this.#main.close()
  }
}

const STREAM_NOT_FOUND = 10_059

/** The stream that binds a subject, if there is one. */
async function streamOf(manager: JetStreamManager, topic: string): Promise<string | undefined> {
  try {
    return await manager.streams.find(topic)
  } catch (error) {
    if (error instanceof JetStreamApiError && error.code === STREAM_NOT_FOUND) return undefined
    throw error
  }
}

/** In which ways a stream may lose what it has confirmed. */
function shortfallsOf(config: StreamConfig): {
  onMachineLoss: readonly string[]
  otherwise: readonly string[]
} {
  const onMachineLoss: string[] = []
  const otherwise: string[] = []
  if (config.num_replicas < 2)
    onMachineLoss.push(
      'num_replicas is 1: one machine has it, on its disk only after sync_interval, two minutes by default',
    )
  if (config.no_ack === true) onMachineLoss.push('no_ack is set: it confirms nothing')
  if (config.storage === StorageType.Memory)
    otherwise.push('storage is memory: it is lost when its servers end')
  if (config.retention === RetentionPolicy.Interest)
    otherwise.push('retention is interest: what no consumer waits for is dropped at once')
  if (config.max_age > 0)
    otherwise.push(`max_age is ${config.max_age / 1e9} s: older messages are dropped unread`)
  if (config.discard === DiscardPolicy.Old)
    for (const limit of ['max_msgs', 'max_bytes', 'max_msgs_per_subject'] as const)
      if (config[limit] > 0)
        otherwise.push(`${limit} is ${config[limit]} and discard is old: older messages are dropped unread`)
  return { onMachineLoss, otherwise }
}

function checkSubject(topic: string): void {
  if (/[\s*>]|^\.|\.$|\.\.|^$/.test(topic))
    throw new EscrowError(
      'unknownDestination',
      `nats: ${JSON.stringify(topic)} is not a subject without wildcards`,
    )
}

/** Of streams and consumers: no dots, wildcards, white space or separators of paths. */
function cleanName(text: string): string {
  return text.replaceAll(/[^\w=-]/g, '_')
}

function consumerName(topic: string, group: string): string {
  return `${cleanName(group)}=${cleanName(topic)}`
}

const KNOWN = [
  'servers',
  'user',
  'password',
  'token',
  'tls',
  'durability',
  'missingTopics',
  'replicas',
  'ackWaitMs',
  'connectTimeoutMs',
] as const satisfies readonly (keyof NatsOptions)[]

function parse(options: NatsOptions) {
  const gate = new OptionGate('nats', options, KNOWN)
  const policy = gate.topicPolicy()
  const address: NatsAddress = {
    servers: parseServers(gate, options.servers),
    user: gate.text('user'),
    password: gate.text('password'),
    token: gate.text('token'),
    tls: gate.object('tls'),
    connectTimeoutMs: gate.integer('connectTimeoutMs', 100, 60_000) ?? 5_000,
  }
  if ((address.user === undefined) !== (address.password === undefined))
    throw gate.invalid('password', 'given together with user')
  if (address.token !== undefined && address.user !== undefined)
    throw gate.invalid('token', 'allowed together with user')
  return {
    ...policy,
    address,
    replicas: gate.integer('replicas', 1, 5) ?? (policy.durability === 'replicated' ? 3 : 1),
    ackWaitMs: gate.integer('ackWaitMs', 1_000, 3_600_000) ?? 10_000,
  }
}

const SERVERS_MAX = 32

function parseServers(gate: OptionGate, value: unknown): readonly string[] {
  const servers = Array.isArray(value) ? value : [value ?? '127.0.0.1:4222']
  // A name and a password in such an address would be passed over in silence.
  const isWhole = servers.every(
    (each) => typeof each === 'string' && /^(\[[\da-f:]+\]|[^\s:@/]+)(:\d+)?$/i.test(each),
  )
  if (!isWhole || servers.length === 0 || servers.length > SERVERS_MAX)
    throw gate.invalid('servers', `host:port, or a list of 1-${SERVERS_MAX} of them`)
  return servers
}
