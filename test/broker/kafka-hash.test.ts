import { Partitioners } from 'kafkajs'
import { expect, test } from 'vitest'
import { hashOfKey } from '../../src/broker/kafka/hash.ts'

/** From Kafka's own `UtilsTest.testMurmur2`, without their sign. */
const known: Readonly<Record<string, number>> = {
  '21': -973932308,
  foobar: -790332482,
  'a-little-bit-long-string': -985981536,
  'a-little-bit-longer-string': -1486304829,
  lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8: -58897971,
  abc: 479470107,
}

test.each(Object.entries(known))('the hash of %s is the one that Kafka has', (key, hash) => {
  expect(hashOfKey(Buffer.from(key))).toBe(hash & 0x7fffffff)
})

test('every length of key goes where kafkajs, as Java, puts it', () => {
  const partitionOf = Partitioners.DefaultPartitioner()
  const partitions = Array.from({ length: 7 }, (_, partitionId) => ({ partitionId, leader: 1 }))
  for (let length = 0; length < 40; length++) {
    const key = Buffer.from(Array.from({ length }, (_, at) => (at * 37 + length * 11) % 256))
    const message = { key, value: null }
    const place = { topic: 't', partitionMetadata: partitions as never, message }
    expect(hashOfKey(key) % 7).toBe(partitionOf(place))
  }
})
