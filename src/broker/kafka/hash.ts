const M = 0x5bd1e995

/**
 * By which Kafka's own producer chooses the partition of a key, modulo their number: murmur2 as in
 * `org.apache.kafka.common.utils.Utils`, without its sign. Producers of one topic must agree on it, or else a key's
 * messages stand in several partitions.
 */
export function hashOfKey(key: Uint8Array): number {
  let hash = 0x9747b28c ^ key.length
  const whole = key.length & ~3
  for (let at = 0; at < whole; at += 4) {
    let word =
      byte(key, at) | (byte(key, at + 1) << 8) | (byte(key, at + 2) << 16) | (byte(key, at + 3) << 24)
    word = Math.imul(word, M)
    word = Math.imul(word ^ (word >>> 24), M)
    hash = Math.imul(hash, M) ^ word
  }
  if (whole < key.length) {
    for (let at = key.length - 1; at >= whole; at--) hash ^= byte(key, at) << ((at - whole) * 8)
    hash = Math.imul(hash, M)
  }
  hash = Math.imul(hash ^ (hash >>> 13), M)
  return (hash ^ (hash >>> 15)) & 0x7fffffff
}

function byte(bytes: Uint8Array, at: number): number {
  return bytes[at] as number
}
