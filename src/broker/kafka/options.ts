/** What both adapters of Kafka are told, and the one gate that it passes. */
import type { ConnectionOptions } from 'node:tls'
import type { TopicPolicy } from '../broker.ts'
import { OptionGate } from '../option-gate.ts'

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

const KNOWN = [
  'brokers',
  'clientId',
  'ssl',
  'sasl',
  'transactional',
  'durability',
  'missingTopics',
  'createdTopics',
] as const satisfies readonly (keyof KafkaOptions)[]
const KNOWN_SASL = ['mechanism', 'username', 'password'] as const satisfies readonly (keyof KafkaSasl)[]
const KNOWN_CREATED = [
  'partitions',
  'replicationFactor',
  'minInsyncReplicas',
] as const satisfies readonly (keyof KafkaCreatedTopics)[]

/** Checks and completes the options of `factory`. Throws `invalidArgument`, which never tells a user's name or password. */
export function parseKafkaOptions(options: KafkaOptions, factory = 'kafka'): KafkaSettings {
  const gate = new OptionGate(factory, options, KNOWN)
  const { durability, missingTopics } = gate.topicPolicy()
  const isReplicatedAsked = durability === 'replicated'
  const clientId = /^[\w.-]{1,249}$/
  return Object.freeze({
    brokers: parseBrokers(gate, options.brokers),
    clientId: gate.matching('clientId', clientId, `up to 249 ${CHARACTERS}`) ?? 'escrow',
    tls: parseTls(gate, options.ssl),
    sasl: parseSasl(gate),
    idPrefix: parseIdPrefix(gate),
    isReplicatedAsked,
    createsTopics: missingTopics === 'create',
    ...parseCreatedTopics(gate, isReplicatedAsked),
  })
}

const CHARACTERS = 'letters, digits, dots, hyphens and underscores'

function parseBrokers(gate: OptionGate, value: unknown): readonly string[] {
  if (!Array.isArray(value) || value.length === 0)
    throw gate.invalid('brokers', 'a list of host:port', value ?? null)
  for (const [at, broker] of value.entries()) {
    // kafkajs takes all before the first colon for the host, so that an IPv6 address can't be one.
    if (typeof broker !== 'string' || !/^[^\s:/@]+:\d{1,5}$/.test(broker))
      throw gate.invalid(
        `brokers[${at}]`,
        'host:port, with a name or an IPv4 address',
        String(broker).replace(/^.*@/, '…@'),
      )
  }
  return [...value]
}

function parseTls(gate: OptionGate, ssl: KafkaOptions['ssl']): ConnectionOptions | undefined {
  if (ssl === undefined || typeof ssl === 'boolean') return ssl ? {} : undefined
  return { ...gate.object<ConnectionOptions>('ssl', 'true, false or an object for tls.connect') }
}

function parseSasl(gate: OptionGate): KafkaSasl | undefined {
  const sasl = gate.inner('sasl', KNOWN_SASL)
  const mechanisms = ['plain', 'scram-sha-256', 'scram-sha-512'] as const
  return (
    sasl && {
      mechanism: sasl.choice('mechanism', mechanisms) ?? sasl.missing('mechanism', mechanisms.join(' or ')),
      username: sasl.text('username') ?? sasl.missing('username'),
      password: sasl.text('password') ?? sasl.missing('password'),
    }
  )
}

function parseIdPrefix(gate: OptionGate): string | undefined {
  const transactional = gate.inner('transactional', ['idPrefix'])
  const allowed = `up to 200 ${CHARACTERS}`
  return (
    transactional &&
    (transactional.matching('idPrefix', /^[\w.-]{1,200}$/, allowed) ??
      transactional.missing('idPrefix', allowed))
  )
}

function parseCreatedTopics(gate: OptionGate, isReplicatedAsked: boolean) {
  const created = gate.inner('createdTopics', KNOWN_CREATED)
  const partitions = created?.integer('partitions', 1, 100_000) ?? -1
  const replicationFactor = created?.integer('replicationFactor', 1, 32_767) ?? (isReplicatedAsked ? 3 : -1)
  const minInsyncReplicas = created?.integer('minInsyncReplicas', 1, 32_767) ?? (isReplicatedAsked ? 2 : -1)
  // Such a topic would be made, and take no message ever.
  if (replicationFactor > 0 && minInsyncReplicas > replicationFactor)
    throw gate.invalid(
      'createdTopics.minInsyncReplicas',
      `at most the replicationFactor of ${replicationFactor}`,
      minInsyncReplicas,
    )
  return { partitions, replicationFactor, minInsyncReplicas }
}
