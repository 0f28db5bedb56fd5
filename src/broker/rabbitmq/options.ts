/** The one gate of RabbitMQ's options. */
import { EscrowError } from '../../core/errors.ts'
import type { RabbitmqOptions } from '../rabbitmq.ts'

interface Rule {
  readonly allowed: string
  fits(value: unknown): boolean
  /** Its value may hold a password, and is never told. */
  readonly isSecret?: boolean
}

const oneOf = (...values: string[]): Rule => ({
  allowed: values.join(' or '),
  fits: (value) => values.includes(value as string),
})
const whole = (min: number, max: number): Rule => ({
  allowed: `a whole number from ${min} to ${max}`,
  fits: (value) => Number.isInteger(value) && (value as number) >= min && (value as number) <= max,
})
const isUrl = (value: unknown, protocols: readonly string[]): value is string =>
  typeof value === 'string' && URL.canParse(value) && protocols.includes(new URL(value).protocol)
const isAmqp = (value: unknown) => isUrl(value, ['amqp:', 'amqps:']) && new URL(value).hostname !== ''

const tlsNames = ['ca', 'cert', 'key', 'passphrase', 'servername', 'rejectUnauthorized']

const rules: Readonly<Record<keyof RabbitmqOptions, Rule>> = {
  url: {
    allowed: 'amqp://user:password@host:port/vhost or amqps://…, or a list of them',
    fits: (value) => (Array.isArray(value) ? value.length > 0 && value.every(isAmqp) : isAmqp(value)),
    isSecret: true,
  },
  tls: {
    allowed: `an object of ${tlsNames.join(', ')}`,
    fits: (value) =>
      typeof value === 'object' &&
      value !== null &&
      Object.keys(value).every((name) => tlsNames.includes(name)),
    isSecret: true,
  },
  managementUrl: {
    allowed: 'http://user:password@host:port or https://…',
    fits: (value) => isUrl(value, ['http:', 'https:']),
    isSecret: true,
  },
  heartbeatSeconds: whole(1, 3_600),
  connectTimeoutMs: whole(1, 60_000),
  messageBytesMax: whole(1, 536_870_912),
  queueType: oneOf('quorum', 'classic'),
  deliveryLimit: {
    allowed: 'a whole number from 1, or -1',
    fits: (value) => Number.isSafeInteger(value) && ((value as number) >= 1 || value === -1),
  },
  singleActiveConsumer: { allowed: 'true or false', fits: (value) => typeof value === 'boolean' },
  durability: oneOf('any', 'replicated'),
  missingTopics: oneOf('refuse', 'create'),
}

/** Checks each option, and fills in the defaults. Throws `invalidArgument`. */
export function checkOptions(options: RabbitmqOptions) {
  const given: Readonly<Record<string, unknown>> = { ...options }
  if (given.url === undefined) throw invalid(`rabbitmq: url is missing; it is ${rules.url.allowed}`)
  for (const [name, value] of Object.entries(given)) {
    const rule = Object.hasOwn(rules, name) ? rules[name as keyof RabbitmqOptions] : undefined
    if (rule === undefined)
      throw invalid(`rabbitmq: there is no option "${name}"; there are ${Object.keys(rules).join(', ')}`)
    if (value === undefined || rule.fits(value)) continue
    const told = rule.isSecret === true ? 'is not as it must be' : `is ${JSON.stringify(value)}`
    throw invalid(`rabbitmq: ${name} ${told}; it may be ${rule.allowed}`)
  }
  const urls = [options.url].flat().map((url) => new URL(url))
  return Object.freeze({
    urls,
    tls: { ...options.tls },
    vhost: decodeURIComponent(urls[0]!.pathname.slice(1)) || '/',
    managementUrl: managementUrl(options.managementUrl, urls[0]!),
    heartbeatSeconds: options.heartbeatSeconds ?? 10,
    connectTimeoutMs: options.connectTimeoutMs ?? 5_000,
    messageBytesMax: options.messageBytesMax,
    queueType: options.queueType ?? 'quorum',
    deliveryLimit: options.deliveryLimit,
    singleActiveConsumer: options.singleActiveConsumer ?? false,
    durability: options.durability ?? 'any',
    missingTopics: options.missingTopics ?? 'refuse',
  })
}

function managementUrl(text: string | undefined, server: URL): URL | undefined {
  if (text === undefined) return undefined
  const url = new URL(text)
  if (url.username !== '') return url
  url.username = server.username || 'guest'
  url.password = server.username === '' ? 'guest' : server.password
  return url
}

const invalid = (message: string) => new EscrowError('invalidArgument', message)
