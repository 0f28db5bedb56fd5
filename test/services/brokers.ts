/** The servers of all brokers, each by the URL under which `examples/shop/broker.ts` reaches it. */
import type { BrokerKind } from '../../examples/shop/broker.ts'
import type { BrokerService } from './broker-service.ts'
import { catalog } from './catalog.ts'

/** A broker's server, and its URL through the proxy. */
export interface StartedBroker {
  readonly service: BrokerService
  readonly url: string
}

/** Starts one. Throws with the reason where it can't be had. */
export async function startBroker(kind: BrokerKind): Promise<StartedBroker> {
  const { value } = await catalog[kind].start({})
  return { service: value, url: brokerUrl(kind, value) }
}

/** The URL of a server. */
export function brokerUrl(
  kind: BrokerKind,
  { host, port, password }: BrokerService & { readonly password?: string },
): string {
  switch (kind) {
    case 'redis':
      return `redis://:${password}@${host}:${port}`
    default:
      throw new Error(kind)
  }
}
