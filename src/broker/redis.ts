/**
 * Redis Streams as a broker: a topic is a stream.
 *
 * | what                       | how                                                                              |
 * |----------------------------|----------------------------------------------------------------------------------|
 * | confirm                    | a batch is one transaction (MULTI): its messages are there in order, or none is. As durable as `appendfsync` says: only `always` syncs before the answer |
 * | order                      | the stream's, for one reader of a group; Redis spreads messages over several readers without regard to keys |
 * | duplicates after a crash   | a batch whose answer was lost comes again, whole: consumers deduplicate by `escrow-id` |
 * | delay                      | Escrow holds delayed messages itself                                             |
 * | trace headers              | each header is a field of the entry, behind `body`, which is the first           |
 * | maximum size               | `proto-max-bulk-len` (512 MiB by default), asked at registration                 |
 * | `replicated`               | waits for `replicasMin` replicas after each batch (WAITAOF from Redis 7.2, which waits for their disks; before that WAIT, for their memory), and refuses where `appendonly`, `appendfsync`, `min-replicas-to-write` or the replicas connected fall short, or can't be seen |
 *
 * A failover of Redis is no consensus: a replica that was behind may be promoted, and what only the old primary had is
 * lost. Needs Redis 6.2. Redis Cluster is refused.
 */
import type { ConnectionOptions as TlsOptions } from 'node:tls'
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
import { OptionGate } from './option-gate.ts'
import { Readers } from './readers.ts'
import { shortfallsOf } from './redis/checks.ts'
import {
  codeOf,
  type RedisAddress,
  RedisConnection,
  type Reply,
  records,
  redisError,
} from './redis/connection.ts'
import { RedisPublisher } from './redis/publisher.ts'
import { missingStream, RedisReader } from './redis/reader.ts'

/** Options of `redis`. */
export interface RedisOptions extends TopicPolicy {
  /** `redis://user:password@host:port/database`, or `rediss:` for TLS. Default `redis://127.0.0.1:6379/0`. */
  readonly url?: string | undefined
  /** Instead of those in the URL. */
  readonly username?: string | undefined
  readonly password?: string | undefined
  /** For TLS: `ca`, `cert`, `key`, `servername` and so on, as Node's `tls.connect` takes them. */
  readonly tls?: TlsOptions | undefined
  /** Replicas that must have a batch before it is confirmed, where `durability` is `replicated`; 1-100. Default 1. */
  readonly replicasMin?: number | undefined
  /**
   * Entries that a stream keeps, about: older ones are dropped, **whether they were read or not**. Default none: a stream
   * grows until somebody trims it, and a server that reaches `maxmemory` refuses further messages.
   */
  readonly maxLength?: number | undefined
  /** How long a stream keeps an entry, about, instead of `maxLength`; milliseconds. Default for ever. */
  readonly maxAgeMs?: number | undefined
  /** After so long without a sign of life from its reader, a message goes to another one; 100-3,600,000. Default 30,000. */
  readonly claimIdleMs?: number | undefined
  /**
   * What this process is called among a group's readers. One that has the same name again after a crash goes on at once
   * with what it held, in order; otherwise that comes after `claimIdleMs`. Never give two that run one name. Default: a
   * new one for each subscription.
   */
  readonly consumer?: string | undefined
  /** For connecting; milliseconds, 100-60,000. Default 5,000. */
  readonly connectTimeoutMs?: number | undefined
}

const REQUEST_MS_MAX = 10_000

/**
 * Publishes on streams of Redis. Throws `invalidArgument` for a wrong option; connects at first use.
 */
export function redis(options: RedisOptions = {}): Broker {
  return new RedisBroker(parse(options))
}

type Settings = ReturnType<typeof parse>

class RedisBroker implements Broker {
  readonly kind = 'redis'
  readonly #settings: Settings
  readonly #main: Connector<RedisConnection>
  readonly #readers = new Readers<RedisReader>()
  readonly #publisher: RedisPublisher

  constructor(settings: Settings) {
    this.#settings = settings
    this.#main = new Connector('redis', () => RedisConnection.open(settings.address))
    this.#publisher = new RedisPublisher(settings, (connection) => this.#main.drop(connection))
  }

  async register(topic: string, signal: AbortSignal): Promise<Topic> {
    const { missingTopics, durability, replicasMin, trimming } = this.#settings
    const connection = await this.#main.get(signal)
    const ask = (...command: string[]) => this.#ask(connection, command, signal)
    const type = await ask('TYPE', topic)
    if (type === 'none') {
      if (missingTopics === 'refuse') throw missingStream(topic)
      await createStream(ask, topic)
    } else if (type !== 'stream') {
      throw new EscrowError(
        'unknownDestination',
        `redis: the key ${topic} is a ${type}, not a stream (WRONGTYPE)`,
      )
    }
    const found = await shortfallsOf(ask, topic, durability === 'replicated' ? replicasMin : 1)
    this.#publisher.messageBytesMax = found.messageBytesMax
    if (durability === 'replicated' && found.onMachineLoss.length > 0)
      throw new EscrowError(
        'notDurable',
        `redis: ${topic} is not replicated: ${found.onMachineLoss.join('; ')}`,
      )
    const trimmed =
      trimming().length === 0 ? [] : ['maxLength or maxAgeMs drop messages that nobody has read yet']
    return {
      messageBytesMax: found.messageBytesMax,
      isOrdered: true,
      shortfalls: [...found.onMachineLoss, ...found.otherwise, ...trimmed],
    }
  }

  #ask(connection: RedisConnection, command: readonly string[], signal: AbortSignal): Promise<Reply> {
    return this.#main.answer(connection, connection.send(command), signal, redisError)
  }

  publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    return this.#main.publish(this.#publisher, batch, signal)
  }

  async subscribe(
    options: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription> {
    const { address, claimIdleMs, consumer, missingTopics } = this.#settings
    const reader = new RedisReader({
      ...options,
      handle,
      claimIdleMs,
      consumer,
      isCreating: missingTopics === 'create',
      main: this.#main,
      own: new Connector('redis', () => RedisConnection.open(address)),
    })
    return await this.#readers.start(reader)
  }

  /** Where Redis doesn't know how far a group is (`lag` is null), the whole stream is counted: it is never more than that. */
  async lag(topic: string, group: string): Promise<number> {
    const signal = AbortSignal.timeout(REQUEST_MS_MAX)
    const connection = await this.#main.get(signal)
    const ask = (...command: string[]) => this.#ask(connection, command, signal)
    if ((await ask('TYPE', topic)) === 'none') throw missingStream(topic)
    const [length, groups] = await Promise.all([ask('XLEN', topic), ask('XINFO', 'GROUPS', topic)])
    const facts = records(groups).find((each) => each.get('name') === group)
    const unread = Number(facts?.get('lag') ?? 'null')
    return Number.isNaN(unread) ? Number(length) : unread + Number(facts?.get('pending'))
  }

  async close(): Promise<void> {
    await this.#readers.abandon()
    this.#main.close()
  }
}

/** An empty stream, which only a group can make. */
async function createStream(ask: (...command: string[]) => Promise<Reply>, topic: string): Promise<void> {
  const group = 'escrow-created'
  try {
    await ask('XGROUP', 'CREATE', topic, group, '$', 'MKSTREAM')
  } catch (error) {
    if (!(error instanceof EscrowError) || codeOf(error.cause) !== 'BUSYGROUP') throw error
  }
  await ask('XGROUP', 'DESTROY', topic, group)
}

const KNOWN = [
  'url',
  'username',
  'password',
  'tls',
  'durability',
  'missingTopics',
  'replicasMin',
  'maxLength',
  'maxAgeMs',
  'claimIdleMs',
  'consumer',
  'connectTimeoutMs',
] as const satisfies readonly (keyof RedisOptions)[]

function parse(options: RedisOptions) {
  const gate = new OptionGate('redis', options, KNOWN)
  const url = parseUrl(gate)
  const tls = gate.object<TlsOptions>('tls') ?? (url.protocol === 'rediss:' ? {} : undefined)
  const maxLength = gate.integer('maxLength', 1, Number.MAX_SAFE_INTEGER)
  const maxAgeMs = gate.integer('maxAgeMs', 1, Number.MAX_SAFE_INTEGER)
  if (maxLength !== undefined && maxAgeMs !== undefined)
    throw gate.invalid('maxAgeMs', 'allowed together with maxLength: Redis trims a stream by one', maxAgeMs)
  const trimming = (): readonly string[] => {
    if (maxLength !== undefined) return ['MAXLEN', '~', String(maxLength)]
    return maxAgeMs === undefined ? [] : ['MINID', '~', String(Date.now() - maxAgeMs)]
  }
  const address: RedisAddress = {
    host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: Number(url.port || 6379),
    username: gate.text('username') ?? (decodeURIComponent(url.username) || undefined),
    password: gate.text('password') ?? (decodeURIComponent(url.password) || undefined),
    database: Number(url.pathname.slice(1)),
    tls,
    connectTimeoutMs: gate.integer('connectTimeoutMs', 100, 60_000) ?? 5_000,
  }
  return {
    address,
    trimming,
    ...gate.topicPolicy(),
    replicasMin: gate.integer('replicasMin', 1, 100) ?? 1,
    claimIdleMs: gate.integer('claimIdleMs', 100, 3_600_000) ?? 30_000,
    consumer: gate.text('consumer'),
  }
}

function parseUrl(gate: OptionGate): URL {
  const text = gate.text('url') ?? 'redis://127.0.0.1:6379/0'
  const url = URL.canParse(text) ? new URL(text) : undefined
  const isWhole =
    url !== undefined &&
    /^rediss?:$/.test(url.protocol) &&
    url.hostname !== '' &&
    /^\/?\d{0,4}$/.test(url.pathname) &&
    url.search === ''
  if (url === undefined || !isWhole) throw gate.invalid('url', 'redis[s]://user:password@host:port/database')
  return url
}
