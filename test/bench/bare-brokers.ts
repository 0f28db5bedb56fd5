/** Each broker's own client, durable, with one request a batch where the client has one. */
import { randomUUID } from 'node:crypto'
import { jetstream } from '@nats-io/jetstream'
import { connect as connectNats } from '@nats-io/transport-node'
import { createClient } from '@redis/client'
import { connect as connectRabbit } from 'amqplib'
import { Kafka, logLevel } from 'kafkajs'
import pg from 'pg'
import { Producer } from 'rocketmq-client-nodejs'
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
    kafka: async (url, topic) => {
      const kafka = new Kafka({ brokers: [new URL(url).host], logLevel: logLevel.ERROR })
      const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
      await producer.connect()
      return {
        publish: (batch) =>
          producer.send({ topic, acks: -1, messages: batch.map(({ key, body }) => ({ key, value: body })) }),
        close: () => producer.disconnect(),
      }
    },

    rocketmq: async (url, topic) => {
      const { host, username, password } = new URL(url)
      const sessionCredentials = { accessKey: username, accessSecret: password }
      const producer = new Producer({ endpoints: host, namespace: '', topics: [topic], sessionCredentials })
      await producer.startup()
      return {
        // The adapter makes ordered topics, where each message has a group.
        publish: (batch) =>
          Promise.all(batch.map(({ key, body }) => producer.send({ topic, body, messageGroup: key }))),
        close: () => producer.shutdown(),
      }
    },

    rabbitmq: async (url, topic) => {
      const connection = await connectRabbit(url)
      const channel = await connection.createConfirmChannel()
      return {
        publish(batch) {
          for (const { body } of batch) channel.sendToQueue(topic, body, { persistent: true })
          return channel.waitForConfirms()
        },
        close: () => connection.close(),
      }
    },

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

    nats: async (url, topic) => {
      const { host, username, password } = new URL(url)
      const connection = await connectNats({ servers: host, user: username, pass: password })
      const stream = jetstream(connection)
      return {
        publish: (batch) => Promise.all(batch.map(({ body }) => stream.publish(topic, body))),
        close: () => connection.close(),
      }
    },

    postgres: async (url) => {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      // A queue and nothing beside it: an id by which a message is found once, and its body.
      await client.query('create table if not exists bare_queue (id uuid primary key, key text, body bytea)')
      return {
        publish: (batch) =>
          client.query({
            name: 'publish',
            text: 'insert into bare_queue select * from unnest($1::uuid[], $2::text[], $3::bytea[])',
            values: [
              batch.map(() => randomUUID()),
              batch.map(({ key }) => key),
              batch.map(({ body }) => `\\x${body.toString('hex')}`),
            ],
          }),
        close: () => client.end(),
      }
    },
  }
