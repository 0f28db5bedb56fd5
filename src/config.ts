/**
 * The coordinator's options: parsed, bounded, frozen, once. What comes from the command line goes before the
 * environment, that before the configuration file, and that before the defaults.
 */
import type { Broker } from './broker/broker.ts'
import { choice, deepFreeze, integer, invalid, list, record, text } from './config-fields.ts'
import {
  type ListeningParticipant,
  type ParticipantLimits,
  type ParticipantSettings,
  parseParticipants,
} from './config-participants.ts'
import {
  type ClusterConfig,
  type ClusterSettings,
  type PostgresSettings,
  parseCluster,
  parseStore,
  type StoreConfig,
} from './config-store.ts'
import { DEFAULT_LIMITS, type Limits } from './core/envelope.ts'
import { type Namespace, parseName } from './core/ids.ts'
import type { CheckBackPolicy, RetryPolicy } from './core/message.ts'
import { DEFAULT_SAGA_LIMITS, SAGA_LIMIT_RANGES, type SagaLimits } from './core/saga/decision.ts'
import type { SagaDefinition } from './core/saga/define.ts'

export type { ParticipantSettings } from './config-participants.ts'
export type { ClusterSettings, PostgresSettings } from './config-store.ts'

/** Makes a broker when the coordinator starts; called once. */
export type BrokerFactory = () => Broker | Promise<Broker>

/** What may be configured. Every field has a default, and every number a bound that its error names. */
export interface EscrowOptions {
  /** The namespaces there are. Default `['default']`. */
  readonly namespaces?: readonly string[] | undefined
  /**
   * Where transactions are kept: `embedded:FOLDER`, or the folder as `path`; or a PostgreSQL that many coordinators share:
   * `postgres://…`, or that as `url`. Default `embedded:./.escrow`.
   */
  readonly store?: string | { readonly path: string } | PostgresSettings | undefined
  /** How this coordinator is one of many, on a store that they share. */
  readonly cluster?: ClusterSettings | undefined
  /** Whether to listen at all; false for use as a library in one process. Default true. */
  readonly listen?: boolean | undefined
  /** Where gRPC is spoken. Default 127.0.0.1:7411; port 0 is any that is free. */
  readonly grpc?: { readonly host?: string | undefined; readonly port?: number | undefined } | undefined
  /** Where HTTP is spoken. Default 127.0.0.1:7410; port 0 is any that is free. */
  readonly http?: { readonly host?: string | undefined; readonly port?: number | undefined } | undefined
  /** What requests are held to. */
  readonly limits?: Partial<Limits> | undefined
  /** What sagas are held to; an error that a bound ends in names it. */
  readonly sagaLimits?: Partial<SagaLimits> | undefined
  /** When checkers are asked, where a prepare doesn't say. */
  readonly checkBack?: Partial<CheckBackPolicy> | undefined
  /** How deliveries are repeated, where a prepare doesn't say. */
  readonly retry?: Partial<RetryPolicy> | undefined
  /** How long what has ended is remembered, and a given id is an idempotency key: 24 h, the default, to 31 days. */
  readonly retentionMs?: number | undefined
  /** Unary calls that may be unanswered at once; more are refused as `overloaded`. Default 4,096. */
  readonly callsMax?: number | undefined
  /** How long stopping waits for what is under way. Default 10,000. */
  readonly drainMsMax?: number | undefined
  /** The brokers, or what makes them, by the name that destinations use: `name:topic`. Default: none. */
  readonly brokers?: Readonly<Record<string, Broker | BrokerFactory>> | undefined
  /** The sagas that it drives, several versions side by side. Default: none; routing slips need none. */
  readonly sagas?: readonly SagaDefinition<never, unknown>[] | undefined
  /** Participants by service: where those are called that listen, and what all are held to. Default: none. */
  readonly participants?: Readonly<Record<string, ParticipantSettings>> | undefined
}

const parsed: unique symbol = Symbol('escrow.config')

/** The options, complete and within their bounds. Frozen. */
export interface Config {
  /** Nothing but `parseConfig` makes one. */
  readonly [parsed]: true
  readonly namespaces: readonly string[]
  readonly store: StoreConfig
  readonly cluster: ClusterConfig
  readonly listen: boolean
  readonly grpc: { readonly host: string; readonly port: number }
  readonly http: { readonly host: string; readonly port: number }
  readonly limits: Limits
  readonly sagaLimits: SagaLimits
  readonly checkBack: CheckBackPolicy
  readonly retry: RetryPolicy
  readonly retentionMs: number
  readonly callsMax: number
  readonly drainMsMax: number
  readonly brokers: ReadonlyMap<string, BrokerFactory>
  /** By name and version. */
  readonly sagas: ReadonlyMap<string, SagaDefinition<never, unknown>>
  /** Those that listen. */
  readonly participants: readonly ListeningParticipant[]
  /** Those that are held to something. */
  readonly participantLimits: readonly ParticipantLimits[]
}

const DAY_MS = 86_400_000

/** The check-back policy where nothing else is said. */
export const DEFAULT_CHECK_BACK: CheckBackPolicy = {
  delayMs: 10_000,
  delayMsMax: 300_000,
  checksMax: 15,
  onExhausted: 'park',
  unresolvedMsMax: DAY_MS,
}

/** The retry policy where nothing else is said. A barrier keeps its rows for longer than `lastDispatchMsMax`. */
export const DEFAULT_RETRY: RetryPolicy = {
  attemptsMax: 16,
  delayMs: 200,
  delayMsMax: 60_000,
  attemptTimeoutMs: 30_000,
  lastDispatchMsMax: 7 * DAY_MS,
}

const YEAR_MS = 365 * DAY_MS
const MIB = 1 << 20
/** What a frame holds beside its largest transaction. */
const FRAME_OVERHEAD_BYTES = 64 << 10
const NAMESPACES_MAX = 1_000

/** Types the options of an `escrow.config.ts`; they are parsed where a coordinator is made of them. */
export function defineConfig(options: EscrowOptions): EscrowOptions {
  return options
}

/** The options that the environment sets: ESCROW_STORE, ESCROW_HOST, ESCROW_GRPC_PORT, ESCROW_HTTP_PORT, ESCROW_ADVERTISE. Throws `invalidArgument`. */
export function optionsOfEnvironment(env: Readonly<Record<string, string | undefined>>): EscrowOptions {
  return {
    store: env.ESCROW_STORE || undefined,
    cluster: { advertise: env.ESCROW_ADVERTISE || undefined },
    grpc: {
      host: env.ESCROW_HOST || undefined,
      port: portOfText('ESCROW_GRPC_PORT', env.ESCROW_GRPC_PORT),
    },
    http: {
      host: env.ESCROW_HOST || undefined,
      port: portOfText('ESCROW_HTTP_PORT', env.ESCROW_HTTP_PORT),
    },
  }
}

/** A port that came as text; undefined for none. Throws `invalidArgument`. */
export function portOfText(name: string, text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65_535) throw invalid(name, text, 'a port, 0-65535')
  return Number(text)
}

/**
 * Parses options; of two layers that set the same one, the earlier wins: `parseConfig(flags, environment, file)`.
 * Throws `invalidArgument`, with option, value and bound in its message.
 */
export function parseConfig(...layers: readonly EscrowOptions[]): Config {
  const options = merge(layers)
  const limits = parseLimits(options.limits)
  const namespaces = list('namespaces', options.namespaces ?? ['default']).map((name) => name as Namespace)
  if (namespaces.length < 1 || namespaces.length > NAMESPACES_MAX) {
    throw invalid('namespaces', `${namespaces.length} of them`, `1-${NAMESPACES_MAX} names`)
  }
  const store = parseStore(options.store ?? 'embedded:./.escrow')
  if (store.kind === 'postgres' && options.listen === false)
    throw invalid('listen', false, 'true: coordinators that share a PostgreSQL reach each other over gRPC')
  return deepFreeze<Config>({
    [parsed]: true,
    namespaces,
    store,
    cluster: parseCluster(options.cluster),
    listen: choice('listen', options.listen ?? true, [true, false]),
    grpc: parseAddress('grpc', options.grpc, 7411),
    http: parseAddress('http', options.http, 7410),
    limits,
    sagaLimits: parseSagaLimits(options.sagaLimits, limits),
    checkBack: parseCheckBack(options.checkBack),
    retry: parseRetry(options.retry),
    retentionMs: integer('retentionMs', options.retentionMs ?? DAY_MS, DAY_MS, 31 * DAY_MS),
    callsMax: integer('callsMax', options.callsMax ?? 4_096, 1, 1_000_000),
    drainMsMax: integer('drainMsMax', options.drainMsMax ?? 10_000, 0, 3_600_000),
    brokers: parseBrokers(options.brokers),
    sagas: parseSagas(options.sagas),
    ...parseParticipants(options.participants, namespaces),
  })
}

/** Whether options have been parsed already. */
export const isConfig = (options: EscrowOptions | Config): options is Config => parsed in options

const OPTIONS = [
  'namespaces',
  'store',
  'cluster',
  'listen',
  'grpc',
  'http',
  'limits',
  'sagaLimits',
  'checkBack',
  'retry',
  'retentionMs',
  'callsMax',
  'drainMsMax',
  'brokers',
  'sagas',
  'participants',
] as const satisfies (keyof EscrowOptions)[]
/** The options that are merged field by field; of the others the earlier layer's is taken whole. */
const GROUPS: readonly string[] = ['cluster', 'grpc', 'http', 'limits', 'sagaLimits', 'checkBack', 'retry']

function merge(layers: readonly EscrowOptions[]): EscrowOptions {
  const merged: Record<string, unknown> = {}
  for (const layer of layers.toReversed()) {
    record('options', layer, OPTIONS)
    for (const [name, value] of Object.entries(layer)) {
      if (value === undefined) continue
      if (!GROUPS.includes(name)) merged[name] = value
      else
        merged[name] = { ...(merged[name] as object | undefined), ...withoutUndefined(record(name, value)) }
    }
  }
  return merged
}

function withoutUndefined(value: object): object {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined))
}

function parseAddress(name: 'grpc' | 'http', given: EscrowOptions['grpc'], port: number): Config['grpc'] {
  const address = record(name, given ?? {}, ['host', 'port'])
  const host = text(`${name}.host`, address.host ?? '127.0.0.1')
  if (!/^[0-9A-Za-z.:-]{1,253}$/.test(host))
    throw invalid(`${name}.host`, host, 'a host name or an IP address')
  return { host, port: integer(`${name}.port`, address.port ?? port, 0, 65_535) }
}

function parseLimits(given: EscrowOptions['limits']): Limits {
  const limits = { ...DEFAULT_LIMITS, ...record('limits', given ?? {}, Object.keys(DEFAULT_LIMITS)) }
  // A segment of a log holds 4 MiB, and so does a message of gRPC: what is to fit into them stays below.
  integer('limits.transactionBytesMax', limits.transactionBytesMax, 1_024, 3 * MIB)
  integer('limits.bodyBytesMax', limits.bodyBytesMax, 1, limits.transactionBytesMax)
  integer('limits.headerBytesMax', limits.headerBytesMax, 0, 256 << 10)
  integer('limits.messagesMax', limits.messagesMax, 1, 1_024)
  const frameBytesMin = limits.transactionBytesMax + FRAME_OVERHEAD_BYTES
  integer('limits.frameBytesMax', limits.frameBytesMax, frameBytesMin, 4 * MIB - FRAME_OVERHEAD_BYTES)
  return limits
}

function parseSagaLimits(given: EscrowOptions['sagaLimits'], { frameBytesMax }: Limits): SagaLimits {
  const bounds = Object.keys(DEFAULT_SAGA_LIMITS) as (keyof SagaLimits)[]
  const known = record('sagaLimits', given ?? {}, bounds) as Partial<SagaLimits>
  const limits = { ...DEFAULT_SAGA_LIMITS, ...known }
  for (const bound of bounds) integer(`sagaLimits.${bound}`, limits[bound], ...SAGA_LIMIT_RANGES[bound])
  // A compensation is called with the input and the result of its action, in one frame.
  const fits = Math.min(limits.sagaBytesMax, Math.floor((frameBytesMax - FRAME_OVERHEAD_BYTES) / 2))
  const payloadBytesMax = known.payloadBytesMax ?? Math.min(limits.payloadBytesMax, fits)
  return { ...limits, payloadBytesMax: integer('sagaLimits.payloadBytesMax', payloadBytesMax, 1, fits) }
}

function parseCheckBack(given: EscrowOptions['checkBack']): CheckBackPolicy {
  const policy = {
    ...DEFAULT_CHECK_BACK,
    ...record('checkBack', given ?? {}, Object.keys(DEFAULT_CHECK_BACK)),
  }
  integer('checkBack.delayMs', policy.delayMs, 1, YEAR_MS)
  integer('checkBack.delayMsMax', policy.delayMsMax, 1, YEAR_MS)
  integer('checkBack.checksMax', policy.checksMax, 1, 1_000_000)
  choice('checkBack.onExhausted', policy.onExhausted, ['park', 'commit', 'rollback'])
  integer('checkBack.unresolvedMsMax', policy.unresolvedMsMax, 1, YEAR_MS)
  return policy
}

function parseRetry(given: EscrowOptions['retry']): RetryPolicy {
  const policy = { ...DEFAULT_RETRY, ...record('retry', given ?? {}, Object.keys(DEFAULT_RETRY)) }
  integer('retry.attemptsMax', policy.attemptsMax, 1, 1_000_000)
  integer('retry.delayMs', policy.delayMs, 1, YEAR_MS)
  integer('retry.delayMsMax', policy.delayMsMax, 1, YEAR_MS)
  integer('retry.attemptTimeoutMs', policy.attemptTimeoutMs, 1, DAY_MS)
  integer('retry.lastDispatchMsMax', policy.lastDispatchMsMax, 1, YEAR_MS)
  return policy
}

function parseBrokers(given: EscrowOptions['brokers']): ReadonlyMap<string, BrokerFactory> {
  const entries = Object.entries(record('brokers', given ?? {}))
  for (const [name, factory] of entries) {
    parseName('brokers: name', name)
    const isBroker = typeof factory === 'object' && factory !== null && 'publish' in factory
    if (!isBroker && typeof factory !== 'function') {
      throw invalid(`brokers.${name}`, factory, 'a broker, or a function that makes one')
    }
  }
  return new Map(
    (entries as [string, Broker | BrokerFactory][]).map(([name, given]) => [
      name,
      typeof given === 'function' ? given : () => given,
    ]),
  )
}

/** A map, so that freezing the options leaves the machines in them alone. */
function parseSagas(given: EscrowOptions['sagas']): Config['sagas'] {
  if (given !== undefined && !Array.isArray(given)) throw invalid('sagas', given, 'a list of definitions')
  const sagas = new Map<string, SagaDefinition<never, unknown>>()
  for (const [at, definition] of (given ?? []).entries()) {
    if (typeof definition?.program?.start !== 'function')
      throw invalid(`sagas[${at}]`, definition, 'what defineSaga or definitionOf returned')
    const name = `${definition.name} version ${definition.version}`
    if (sagas.has(name)) throw invalid(`sagas[${at}]`, name, 'a name and version that no other one has')
    sagas.set(name, definition)
  }
  return sagas
}
