/** The servers of all brokers, each by the URL under which `brokerAt` of examples/shop/broker.ts reaches it. */
import type { TestContext } from 'vitest'
import type { BrokerKind } from '../../examples/shop/broker.ts'
import type { BrokerService } from './broker-service.ts'
import { type Catalog, catalog } from './catalog.ts'
import { queuesOnDisk } from './rabbitmq.ts'
import { service } from './require.ts'
import type { RocketmqService } from './rocketmq.ts'

/** A broker's server. */
export interface StartedBroker {
  readonly service: BrokerService
  /** Through the proxy. */
  readonly url: string
  /** Past the proxy, where a program has started it. */
  readonly directUrl: string
  /** Sees to it that a topic that was just made outlives a kill; left out where that goes without saying. */
  readonly topicMade?: () => Promise<unknown>
}

type Value<Name extends keyof Catalog> = Awaited<ReturnType<Catalog[Name]['start']>>['value']

/** As a test that asks for it inside itself gets it: skipped where it can't be had. */
export async function brokerOfTest(kind: BrokerKind, context: TestContext): Promise<StartedBroker> {
  return await started(kind, (name) => service(name, {}, context))
}

/** Started by a program, and stopped by it. Throws with the reason where it can't be had. */
export async function startBroker(kind: BrokerKind): Promise<StartedBroker> {
  // Kafka's clients go where it tells them to. Who starts a broker beside a program waits for no engine of containers.
  const options = { isDirect: true, backend: 'native' }
  return await started(kind, async (name) => {
    const entry = catalog[name] as unknown as Catalog['kafka']
    return (await entry.start(options)).value as Value<typeof name>
  })
}

async function started(
  kind: BrokerKind,
  start: <Name extends keyof Catalog>(name: Name) => Promise<Value<Name>>,
): Promise<StartedBroker> {
  switch (kind) {
    case 'kafka': {
      const service = await start('kafka')
      const url = `kafka://${service.brokers[0]}`
      return { service, url, directUrl: url }
    }
    case 'rocketmq': {
      const service = await start('rocketmq')
      return { service, url: rocketmqUrl(service), directUrl: rocketmqUrl(service, service.directPort) }
    }
    case 'rabbitmq': {
      const service = await start('rabbitmq')
      return {
        service,
        url: service.url,
        directUrl: service.directUrl,
        topicMade: () => queuesOnDisk(service),
      }
    }
    case 'redis': {
      const service = await start('redis')
      const urlOf = (port: number) => `redis://:${service.password}@127.0.0.1:${port}`
      return { service, url: urlOf(service.port), directUrl: urlOf(service.directPort) }
    }
    case 'nats': {
      const service = await start('nats')
      const urlOf = (port: number) => `nats://${service.user}:${service.password}@127.0.0.1:${port}`
      return { service, url: urlOf(service.port), directUrl: urlOf(service.directPort) }
    }
    case 'postgres': {
      const service = await start('postgres-queue')
      return { service, url: service.url, directUrl: service.server.url }
    }
  }
}

/** The URL of a RocketMQ; by default through its fault proxy. */
export function rocketmqUrl(service: RocketmqService, port: number = service.port): string {
  const { accessKey, accessSecret } = service.credentials
  return `rocketmq://${accessKey}:${accessSecret}@127.0.0.1:${port}?nameServers=${service.nameServers}`
}
