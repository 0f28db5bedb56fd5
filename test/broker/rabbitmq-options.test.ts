import { expect, test } from 'vitest'
import { rabbitmq } from '../../src/broker/rabbitmq.ts'
import type { EscrowError } from '../../src/core/errors.ts'

const url = 'amqp://shop:secret-word@localhost:5672/shop'

function refusal(options: object): EscrowError {
  try {
    rabbitmq(options as never)
  } catch (error) {
    return error as EscrowError
  }
  throw new Error('it was not refused')
}

test.each([
  [{}, 'url', /is not given: it is amqp:/],
  [{ url: [] }, 'url', /is not amqp:/],
  [{ url: 'http://shop:secret-word@localhost' }, 'url', /is not amqp:/],
  [{ url: [url, 'secret-word'] }, 'url', /is not amqp:/],
  [{ url, heartbeat: 5 }, 'heartbeat', /known are .*heartbeatSeconds/],
  [{ url, heartbeatSeconds: 0 }, 'heartbeatSeconds', /: 0 is not a whole number, 1-3600/],
  [{ url, connectTimeoutMs: 0.5 }, 'connectTimeoutMs', /: 0.5 .* 1-60000/],
  [{ url, messageBytesMax: -1 }, 'messageBytesMax', /: -1 is not/],
  [{ url, queueType: 'stream' }, 'queueType', /: "stream" is not one of quorum, classic/],
  [{ url, deliveryLimit: 0 }, 'deliveryLimit', /: 0 is not -1, or a whole number from 1/],
  [{ url, deliveryLimit: -2 }, 'deliveryLimit', /: -2 is not/],
  [{ url, singleActiveConsumer: 'yes' }, 'singleActiveConsumer', /: "yes" is not true or false/],
  [{ url, missingTopics: 'make' }, 'missingTopics', /: "make" is not one of refuse, create/],
  [{ url, durability: 'all' }, 'durability', /: "all" is not one of any, replicated/],
  [{ url, managementUrl: 'shop:secret-word@localhost' }, 'managementUrl', /is not http:/],
  [{ url, tls: { crt: 'secret-word' } }, 'tls.crt', /known are ca, cert/],
])('%o is refused, without a password in the message', (options, option, says) => {
  const { code, message, details } = refusal(options)
  expect({ code, details }).toEqual({ code: 'invalidArgument', details: { option } })
  expect(message).toMatch(says)
  expect(message).not.toContain('secret-word')
})

test('a server that is not there is unavailable, and the message keeps the password to itself', async () => {
  const broker = rabbitmq({ url: 'amqp://shop:secret-word@127.0.0.1:1/shop', connectTimeoutMs: 1_000 })
  const error = await broker
    .register('audit', AbortSignal.timeout(5_000))
    .catch((thrown: EscrowError) => thrown)
  expect(error).toMatchObject({
    code: 'brokerUnavailable',
    message: expect.stringContaining('127.0.0.1:1/shop'),
  })
  expect(JSON.stringify(error) + (error as EscrowError).message).not.toContain('secret-word')
  await broker.close()
})

test('a topic that no server can have is unknown', async () => {
  const broker = rabbitmq({ url })
  for (const topic of ['', '/key', 'q'.repeat(256), `${'e'.repeat(256)}/key`])
    await expect(broker.register(topic, AbortSignal.timeout(5_000))).rejects.toMatchObject({
      code: 'unknownDestination',
    })
  await broker.close()
})
