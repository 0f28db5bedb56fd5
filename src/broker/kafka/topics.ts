/** What the settings of a topic say about it, and the words of Kafka's protocol that both adapters meet. */
import { type ErrorCode, EscrowError } from '../../core/errors.ts'
import type { BrokerMessage, Topic } from '../broker.ts'

/** A topic as the cluster tells it. */
export interface TopicDescription {
  /** How many replicas each partition has. */
  readonly replicas: readonly number[]
  /** Its settings, those included that it has from its cluster. */
  readonly configs: ReadonlyMap<string, string>
}

/** `max.message.bytes` where nobody has looked: Kafka's default. It counts a whole record batch, not one message. */
export const BATCH_BYTES_DEFAULT = 1_048_588
/** What the key (again), the batch's own header and the lengths of fields may add to a message. */
const OVERHEAD_BYTES = 2_048
const BATCH_HEADER_BYTES = 61
const RECORD_BYTES = 32
const HEADER_BYTES = 6

/** What one message takes of its batch, at most, all lengths included. */
export function recordBytes({ id, key, body, contentType, headers }: BrokerMessage): number {
  // Names and values of what `headersOf` adds. Hot: each message that is published comes by here.
  let bytes = RECORD_BYTES + body.length + Buffer.byteLength(key) + id.length + contentType.length
  bytes += 'escrow-id'.length + 'content-type'.length + 2 * HEADER_BYTES
  for (const name in headers) bytes += name.length + Buffer.byteLength(headers[name] as string) + HEADER_BYTES
  return bytes
}

/** Whether so many bytes of messages fit in one batch. */
export function isWithin(bytes: number, batchBytesMax: number): boolean {
  return bytes + BATCH_HEADER_BYTES <= batchBytesMax
}

/** `max.message.bytes`. */
export function batchBytesMax({ configs }: TopicDescription): number {
  return Number(configs.get('max.message.bytes') ?? BATCH_BYTES_DEFAULT)
}

/**
 * What its settings promise. Confirmed by all replicas in sync (acks=all), a message outlives any one machine if, and only
 * if, those are at least two (`min.insync.replicas`), and no other may become leader (`unclean.leader.election.enable`).
 */
export function topicOf(description: TopicDescription): Topic {
  const { replicas, configs } = description
  const shortfalls: string[] = []
  const least = Math.min(...replicas)
  if (least < 2) shortfalls.push(`replication.factor is ${least}: it must be 2 or more, better 3`)
  const insync = Number(configs.get('min.insync.replicas') ?? 1)
  if (insync < 2) shortfalls.push(`min.insync.replicas is ${insync}: it must be 2 or more`)
  if (configs.get('unclean.leader.election.enable') === 'true')
    shortfalls.push('unclean.leader.election.enable is true: it must be false')
  const messageBytesMax = Math.max(0, batchBytesMax(description) - OVERHEAD_BYTES)
  return { messageBytesMax, isOrdered: true, shortfalls }
}

/** An error of a client, by what matters here. */
export interface Trouble {
  /** Kafka's name of an error that a broker answered; else `''`, `TLS` or `SASL_AUTHENTICATION_FAILED`. */
  readonly type: string
  readonly message: string
}

/** Errors that no later attempt of the same record can escape. */
const REFUSING = new Set([
  'MESSAGE_TOO_LARGE',
  'RECORD_LIST_TOO_LARGE',
  'INVALID_RECORD',
  'INVALID_TIMESTAMP',
  'UNSUPPORTED_FOR_MESSAGE_FORMAT',
])
const FORBIDDING = /AUTHORIZATION_FAILED$|^SASL_|^UNSUPPORTED_SASL|^ILLEGAL_SASL|^TLS$|^POLICY_VIOLATION$/

/** Whether one of the records sent is to blame. */
export function isRefusing({ type }: Trouble): boolean {
  return REFUSING.has(type)
}

/** What a caller is told when a topic couldn't be asked about. */
export function errorOf(what: string, { type, message }: Trouble, cause?: unknown): EscrowError {
  const code: ErrorCode = FORBIDDING.test(type)
    ? 'brokerRefused'
    : type === 'UNKNOWN_TOPIC_OR_PARTITION'
      ? 'unknownDestination'
      : type === 'INVALID_TOPIC_EXCEPTION'
        ? 'unknownDestination'
        : type === 'INVALID_REPLICATION_FACTOR'
          ? 'notDurable'
          : 'brokerUnavailable'
  return new EscrowError(code, `${what}: ${message}`, { cause })
}
