/** What both adapters of Kafka are told, and the one gate that it passes. */
import type { ConnectionOptions } from 'node:tls'
import { EscrowError } from '../../core/errors.ts'
import type { TopicPolicy } from '../broker.ts'

/** Of `kafka` and of `kafkaPlatformatic`. */
export interface KafkaOptions extends TopicPolicy {
  /** Where to begin, `host:port` each; the others are learnt from them. */
  readonly brokers: readonly string[]
  /** How the brokers' logs, quotas and metrics name this client. Default `escrow`. */
  readonly clientId?: string | undefined
  /** TLS: `true` trusts what Node trusts; an object is for `tls.connect` (`ca`, `cert`, `key`, `servername` …). Default false. */
  readonly ssl?: boolean | ConnectionOptions | undefined
  /** Default: none. */
  readonly sasl?: KafkaSasl | undefined
  /**
   * Each batch is one transaction of Kafka, which readers with `read_committed` see whole or not at all; two more round
   * trips each. Default: none.
   */
  readonly transactional?: KafkaTransactional | undefined
  /** What a topic gets that `missingTopics: 'create'` creates. */
  readonly createdTopics?: KafkaCreatedTopics | undefined
}

/** How to log in. */
export interface KafkaSasl {
  readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'
  readonly username: string
  readonly password: string
}

/** How transactions of Kafka are named. */
export interface KafkaTransactional {
  /**
   * `transactional.id` is this, a hyphen and a number from 0. Each coordinator needs its own, the same after a restart:
   * two with one prefix fence each other off, and a new one each time leaves what a crash left open to its time-out
   * (`transaction.max.timeout.ms`), which readers wait for.
   */
  readonly idPrefix: string
}

/** The settings of new topics. */
export interface KafkaCreatedTopics {
  /** 1–100,000. Default: the cluster's `num.partitions`. */
  readonly partitions?: number | undefined
  /** `replication.factor`, 1–32,767. Default: the cluster's; with `durability: 'replicated'` 3. */
  readonly replicationFactor?: number | undefined
  /** `min.insync.replicas`, at least 1. Default: the cluster's; with `durability: 'replicated'` 2. */
  readonly minInsyncReplicas?: number | undefined
}

/** Options that have passed the gate. */
export interface KafkaSettings {
  readonly brokers: readonly string[]
  readonly clientId: string
  readonly tls: ConnectionOptions | undefined
  readonly sasl: KafkaSasl | undefined
  readonly idPrefix: string | undefined
  readonly isReplicatedAsked: boolean
  readonly createsTopics: boolean
  /** -1: what the cluster gives. */
  readonly partitions: number
  readonly replicationFactor: number
  readonly minInsyncReplicas: number
}

/** Checks and completes options. Throws `invalidArgument` with the option, its value (never of `sasl`) and what is allowed. */
export function parseKafkaOptions(options: KafkaOptions): KafkaSettings {
  known('options', options, [
    'brokers',
    'clientId',
    'ssl',
    'sasl',
    'transactional',
    'durability',
    'missingTopics',
    'createdTopics',
  ])
  const { brokers, clientId = 'escrow', ssl = false, sasl, transactional, createdTopics = {} } = options
  const { durability = 'any', missingTopics = 'refuse' } = options
  if (!Array.isArray(brokers) || brokers.length === 0)
    throw invalid('brokers', brokers, 'a list of host:port')
  for (const [at, broker] of brokers.entries()) {
    // kafkajs takes all before the first colon for the host, so that an IPv6 address can't be one.
    if (typeof broker !== 'string' || !/^[^\s:/@]+:\d{1,5}$/.test(broker))
      throw invalid(
        `brokers[${at}]`,
        String(broker).replace(/^.*@/, '…@'),
        'host:port, with a name or an IPv4 address',
      )
  }
  matches('clientId', clientId, /^[\w.-]{1,249}$/, 'up to 249 letters, digits, dots, hyphens and underscores')
  if (typeof ssl !== 'boolean' && !isObject(ssl))
    throw invalid('ssl', typeof ssl, 'true, false or an object for tls.connect')
  if (!['any', 'replicated'].includes(durability))
    throw invalid('durability', durability, 'any or replicated')
  if (!['refuse', 'create'].includes(missingTopics))
    throw invalid('missingTopics', missingTopics, 'refuse or create')
  if (sasl !== undefined) checkSasl(sasl)
  if (transactional !== undefined) checkTransactional(transactional)
  const isReplicatedAsked = durability === 'replicated'
  return Object.freeze({
    brokers: [...brokers],
    clientId,
    tls: ssl === false ? undefined : ssl === true ? {} : { ...ssl },
    sasl: sasl && { ...sasl },
    idPrefix: transactional?.idPrefix,
    isReplicatedAsked,
    createsTopics: missingTopics === 'create',
    ...parseCreatedTopics(createdTopics, isReplicatedAsked),
  })
}

function checkSasl(sasl: KafkaSasl): void {
  known('sasl', sasl, ['mechanism', 'username', 'password'])
  if (!['plain', 'scram-sha-256', 'scram-sha-512'].includes(sasl.mechanism))
    throw invalid('sasl.mechanism', sasl.mechanism, 'plain, scram-sha-256 or scram-sha-512')
  for (const name of ['username', 'password'] as const) {
    if (typeof sasl[name] !== 'string' || sasl[name] === '')
      throw invalid(`sasl.${name}`, `a ${typeof sasl[name]}`, 'a string that is not empty')
  }
}

function checkTransactional(transactional: KafkaTransactional): void {
  known('transactional', transactional, ['idPrefix'])
  const allowed = 'up to 200 letters, digits, dots, hyphens and underscores'
  matches('transactional.idPrefix', transactional.idPrefix, /^[\w.-]{1,200}$/, allowed)
}

function parseCreatedTopics(created: KafkaCreatedTopics, isReplicatedAsked: boolean) {
  known('createdTopics', created, ['partitions', 'replicationFactor', 'minInsyncReplicas'])
  const { partitions, replicationFactor, minInsyncReplicas } = created
  const settings = {
    partitions: count('createdTopics.partitions', partitions, 100_000) ?? -1,
    replicationFactor:
      count('createdTopics.replicationFactor', replicationFactor, 32_767) ?? (isReplicatedAsked ? 3 : -1),
    minInsyncReplicas:
      count('createdTopics.minInsyncReplicas', minInsyncReplicas, 32_767) ?? (isReplicatedAsked ? 2 : -1),
  }
  // Such a topic would be made, and take no message ever.
  if (settings.replicationFactor > 0 && settings.minInsyncReplicas > settings.replicationFactor)
    throw invalid(
      'createdTopics.minInsyncReplicas',
      settings.minInsyncReplicas,
      `at most the replicationFactor of ${settings.replicationFactor}`,
    )
  return settings
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function known(option: string, value: unknown, names: readonly string[]): void {
  if (!isObject(value)) throw invalid(option, typeof value, 'an object')
  const stranger = Object.keys(value).find((name) => !names.includes(name))
  if (stranger !== undefined) throw invalid(option, stranger, `an option: known are ${names.join(', ')}`)
}

function matches(option: string, value: unknown, pattern: RegExp, allowed: string): void {
  if (typeof value !== 'string' || !pattern.test(value)) throw invalid(option, value, allowed)
}

function count(option: string, value: number | undefined, max: number): number | undefined {
  if (value === undefined) return undefined
  if (!Number.isInteger(value) || value < 1 || value > max)
    throw invalid(option, value, `a whole number, 1-${max}`)
  return value
}

function invalid(option: string, value: unknown, allowed: string): EscrowError {
  const shown = typeof value === 'string' ? JSON.stringify(value.slice(0, 100)) : String(value)
  return new EscrowError('invalidArgument', `kafka option ${option}: ${shown} is not ${allowed}`, {
    details: { option },
  })
}
