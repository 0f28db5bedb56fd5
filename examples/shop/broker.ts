/** The broker between the order desk and audit, with `npm start -- --broker KIND`. */
import type { Broker } from '../../src/broker/broker.ts'

/** The kinds there are. */
export const brokerKinds = ['kafka', 'rocketmq', 'rabbitmq', 'redis', 'nats', 'postgres'] as const
export type BrokerKind = (typeof brokerKinds)[number]

/** Whether somebody's word is one of them. */
export const isBrokerKind = (kind: string): kind is BrokerKind =>
  (brokerKinds as readonly string[]).includes(kind)

/** The topic of the confirmations. */
export const confirmations = 'order-confirmed'

type Environment = Readonly<Record<string, string | undefined>>

/** Where confirmations are sent: the topic of a broker, or straight to the handler of audit. */
export const confirmationsOf = ({ SHOP_BROKER: kind }: Environment): string =>
  kind === undefined ? `audit/${confirmations}` : `${kind}:${confirmations}`

/** The broker that the main process names in SHOP_BROKER and SHOP_BROKER_URL; undefined where it names none. */
export async function shopBroker(
  { SHOP_BROKER: kind, SHOP_BROKER_URL: url }: Environment,
  reader?: string,
): Promise<Broker | undefined> {
  if (kind === undefined) return undefined
  if (!isBrokerKind(kind) || url === undefined)
    throw new Error(`SHOP_BROKER is "${kind}" and SHOP_BROKER_URL "${url}"`)
  return await brokerAt(kind, url, reader)
}

/**
 * A broker by its URL; topics that are missing are made.
 *
 * | kind     | URL                                                                     |
 * |----------|-------------------------------------------------------------------------|
 * | kafka    | `kafka://user:password@host:port`, without user and password where none are asked for |
 * | rocketmq | `rocketmq://accessKey:accessSecret@host:port?nameServers=host:port`, that of a proxy |
 * | rabbitmq | `amqp://user:password@host:port`                                        |
 * | redis    | `redis://user:password@host:port`                                       |
 * | nats     | `nats://user:password@host:port`                                        |
 * | postgres | `postgres://user:password@host:port/database`                           |
 *
 * `reader` is the name of the only process that reads: where a broker asks, it goes on at once after a restart.
 */
export async function brokerAt(kind: BrokerKind, url: string, reader?: string): Promise<Broker> {
  const missingTopics = 'create'
  const { host, username, password, searchParams } = new URL(url)
  const [user, secret] = [decodeURIComponent(username), decodeURIComponent(password)]
  switch (kind) {
    case 'kafka': {
      const { kafka } = await import('../../src/broker/kafka.ts')
      const sasl = { mechanism: 'plain', username: user, password: secret } as const
      return kafka({ brokers: [host], missingTopics, sasl: user === '' ? undefined : sasl })
    }
    case 'rocketmq': {
      const { rocketmq } = await import('../../src/broker/rocketmq.ts')
      const credentials = user === '' ? undefined : { accessKey: user, accessSecret: secret }
      const nameServers = searchParams.get('nameServers') ?? undefined
      return rocketmq({ endpoints: host, nameServers, credentials, missingTopics })
    }
    case 'rabbitmq': {
      const { rabbitmq } = await import('../../src/broker/rabbitmq.ts')
      return rabbitmq({ url, missingTopics })
    }
    case 'redis': {
      const { redis } = await import('../../src/broker/redis.ts')
      return redis({ url, missingTopics, consumer: reader })
    }
    case 'nats': {
      const { nats } = await import('../../src/broker/nats.ts')
      return nats({ servers: host, user: user || undefined, password: secret || undefined, missingTopics })
    }
    case 'postgres': {
      const { postgresQueue } = await import('../../src/broker/postgres-queue.ts')
      return postgresQueue({ url, missingTopics })
    }
  }
}
