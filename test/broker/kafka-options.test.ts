import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { type KafkaOptions, parseKafkaOptions } from '../../src/broker/kafka/options.ts'
import { kafka } from '../../src/broker/kafka.ts'
import { kafkaPlatformatic } from '../../src/broker/kafka-platformatic.ts'

const brokers = ['127.0.0.1:9092']
const sasl = { mechanism: 'plain', username: 'u', password: 'secret-word' } as const

const wrong: readonly (readonly [option: string, options: object])[] = [
  ['acks', { brokers, acks: 1 }],
  ['brokers', { brokers: [] }],
  ['brokers[1]', { brokers: [...brokers, '127.0.0.1'] }],
  ['brokers[0]', { brokers: ['::1:9092'] }],
  ['brokers[0]', { brokers: ['user:secret-word@host:9092'] }],
  ['clientId', { brokers, clientId: 'with space' }],
  ['ssl', { brokers, ssl: 'yes' }],
  ['sasl', { brokers, sasl: 'secret-word' }],
  ['sasl.token', { brokers, sasl: { ...sasl, token: 'secret-word' } }],
  ['sasl.mechanism', { brokers, sasl: { ...sasl, mechanism: 'gssapi' } }],
  ['sasl.password', { brokers, sasl: { ...sasl, password: '' } }],
  ['sasl.username', { brokers, sasl: { ...sasl, username: undefined } }],
  ['transactional.idPrefix', { brokers, transactional: {} }],
  ['transactional.idPrefix', { brokers, transactional: { idPrefix: '' } }],
  ['durability', { brokers, durability: 'all' }],
  ['missingTopics', { brokers, missingTopics: 'make' }],
  ['createdTopics.partitions', { brokers, createdTopics: { partitions: 0 } }],
  ['createdTopics.replicationFactor', { brokers, createdTopics: { replicationFactor: 1.5 } }],
  [
    'createdTopics.minInsyncReplicas',
    { brokers, createdTopics: { replicationFactor: 2, minInsyncReplicas: 3 } },
  ],
]

test.each(wrong)('a wrong %s is refused by name, and tells no secret', (option, options) => {
  for (const open of [kafka, kafkaPlatformatic]) {
    let error: unknown
    try {
      open(options as KafkaOptions)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toMatchObject({ code: 'invalidArgument', details: { option } })
    expect(inspect(error)).not.toContain('secret-word')
  }
})

test('a broker prints without its password', () => {
  for (const open of [kafka, kafkaPlatformatic])
    expect(inspect(open({ brokers, sasl }), { depth: 10 })).not.toContain('secret-word')
})

test('what a created topic gets follows from what is asked of all', () => {
  expect(parseKafkaOptions({ brokers })).toMatchObject({
    partitions: -1,
    replicationFactor: -1,
    minInsyncReplicas: -1,
  })
  expect(parseKafkaOptions({ brokers, durability: 'replicated' })).toMatchObject({
    replicationFactor: 3,
    minInsyncReplicas: 2,
  })
  expect(
    parseKafkaOptions({
      brokers,
      durability: 'replicated',
      createdTopics: { partitions: 12, replicationFactor: 5, minInsyncReplicas: 3 },
    }),
  ).toMatchObject({ partitions: 12, replicationFactor: 5, minInsyncReplicas: 3 })
})
