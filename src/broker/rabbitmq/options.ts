/** What RabbitMQ's options come to. */
import { OptionGate } from '../option-gate.ts'
import type { RabbitmqOptions, RabbitmqTls } from '../rabbitmq.ts'

const KNOWN = [
  'url',
  'tls',
  'managementUrl',
  'heartbeatSeconds',
  'connectTimeoutMs',
  'messageBytesMax',
  'queueType',
  'deliveryLimit',
  'singleActiveConsumer',
  'durability',
  'missingTopics',
] as const satisfies readonly (keyof RabbitmqOptions)[]
const KNOWN_TLS = [
  'ca',
  'cert',
  'key',
  'passphrase',
  'servername',
  'rejectUnauthorized',
] as const satisfies readonly (keyof RabbitmqTls)[]

/** Checks each option, and fills in the defaults. Throws `invalidArgument`. */
export function checkOptions(options: RabbitmqOptions) {
  const gate = new OptionGate('rabbitmq', options, KNOWN)
  const urls = parseUrls(gate, options.url)
  gate.inner('tls', KNOWN_TLS)
  const deliveryLimit = gate.integer('deliveryLimit', -1, Number.MAX_SAFE_INTEGER)
  if (deliveryLimit === 0) throw gate.invalid('deliveryLimit', '-1, or a whole number from 1', 0)
  return Object.freeze({
    urls,
    tls: { ...options.tls },
    vhost: decodeURIComponent(urls[0]!.pathname.slice(1)) || '/',
    managementUrl: parseManagementUrl(gate, urls[0]!),
    heartbeatSeconds: gate.integer('heartbeatSeconds', 1, 3_600) ?? 10,
    connectTimeoutMs: gate.integer('connectTimeoutMs', 1, 60_000) ?? 5_000,
    messageBytesMax: gate.integer('messageBytesMax', 1, 536_870_912),
    queueType: gate.choice('queueType', ['quorum', 'classic']) ?? 'quorum',
    deliveryLimit,
    singleActiveConsumer: gate.boolean('singleActiveConsumer') ?? false,
    ...gate.topicPolicy(),
  })
}

function parseUrls(gate: OptionGate, value: unknown): readonly URL[] {
  const allowed = 'amqp://user:password@host:port/vhost or amqps://…, or a list of them'
  if (value === undefined) return gate.missing('url', allowed)
  const urls = [value].flat().map((each) => urlOf(each, ['amqp:', 'amqps:']))
  if (urls.length === 0 || !urls.every((url) => url !== undefined && url.hostname !== ''))
    throw gate.invalid('url', allowed)
  return urls as readonly URL[]
}

function parseManagementUrl(gate: OptionGate, server: URL): URL | undefined {
  const text = gate.text('managementUrl')
  if (text === undefined) return undefined
  const url = urlOf(text, ['http:', 'https:'])
  if (url === undefined) throw gate.invalid('managementUrl', 'http://user:password@host:port or https://…')
  if (url.username !== '') return url
  url.username = server.username || 'guest'
  url.password = server.username === '' ? 'guest' : server.password
  return url
}

function urlOf(value: unknown, protocols: readonly string[]): URL | undefined {
  const url = typeof value === 'string' && URL.canParse(value) ? new URL(value) : undefined
  return url !== undefined && protocols.includes(url.protocol) ? url : undefined
}
