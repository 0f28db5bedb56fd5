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
  [{}, /url is missing; it is amqp:/],
  [{ url: [] }, /url is not as it must be; it may be amqp:/],
  [{ url: 'http://shop:secret-word@localhost' }, /url is not as it must be/],
  [{ url: [url, 'secret-word'] }, /url is not as it must be/],
  [{ url, heartbeat: 5 }, /no option "heartbeat"; there are .*heartbeatSeconds/],
  [{ url, heartbeatSeconds: 0 }, /heartbeatSeconds is 0; it may be a whole number from 1 to 3600/],
  [{ url, connectTimeoutMs: 0.5 }, /connectTimeoutMs is 0.5; .* from 1 to 60000/],
  [{ url, messageBytesMax: -1 }, /messageBytesMax is -1/],
  [{ url, queueType: 'stream' }, /queueType is "stream"; it may be quorum or classic/],
  [{ url, deliveryLimit: 0 }, /deliveryLimit is 0; it may be a whole number from 1, or -1/],
  [{ url, singleActiveConsumer: 'yes' }, /singleActiveConsumer is "yes"; it may be true or false/],
  [{ url, missingTopics: 'make' }, /missingTopics is "make"; it may be refuse or create/],
  [{ url, durability: 'all' }, /durability is "all"; it may be any or replicated/],
  [
    { url, managementUrl: 'shop:secret-word@localhost' },
    /managementUrl is not as it must be; it may be http:/,
  ],
  [{ url, tls: { crt: 'secret-word' } }, /tls is not as it must be; it may be an object of ca, cert/],
])('%o is refused, without a password in the message', (options, says) => {
  const { code, message } = refusal(options)
  expect(code).toBe('invalidArgument')
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
