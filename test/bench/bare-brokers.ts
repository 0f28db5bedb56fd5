/** Each broker's own client, durable, with one request a batch where the client has one. */
import { createClient } from '@redis/client'
import type { BrokerKind } from '../../examples/shop/broker.ts'

/** A message of a bare client. */
export interface BareMessage {
  readonly key: string
  readonly body: Buffer
}

/** A client that is connected. */
export interface BareBroker {
  /** Resolves when all are confirmed. */
  publish(batch: readonly BareMessage[]): Promise<unknown>
  close(): Promise<unknown>
}

/** By kind: connects to a server, whose topic is there. */
export const bareClients: Readonly<Record<BrokerKind, (url: string, topic: string) => Promise<BareBroker>>> =
  {
    redis: async (url, topic) => {
      const client = await createClient({ url }).connect()
      return {
        publish: (batch) =>
          Promise.all(
            batch.map(({ key, body }) => client.sendCommand(['XADD', topic, '*', 'body', body, 'key', key])),
          ),
        close: () => client.close(),
      }
    },
  }
