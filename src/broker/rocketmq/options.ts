/** The gate of RocketMQ's options, for the adapter and for `rocketmqNative`. */
import { isIPv4 } from 'node:net'
import { EscrowError } from '../../core/errors.ts'
import type { LinkOptions } from './link.ts'

/** How to reach RocketMQ 5's proxies. */
export interface RocketmqConnection {
  /**
   * The gRPC address of a proxy, `host:port`, or of several, IP addresses with commas: one of them is used at a time. Proxies
   * run in cluster mode, or there is one broker: the addresses in a topic's route are not used.
   */
  readonly endpoints: string
  readonly credentials?:
    | {
        readonly accessKey: string
        readonly accessSecret: string
        readonly securityToken?: string | undefined
      }
    | undefined
  /** `true`: with the authorities that Node trusts; or PEM texts of another authority, and of a certificate of one's own. Default: none. */
  readonly tls?:
    | boolean
    | {
        readonly ca?: string | undefined
        readonly cert?: string | undefined
        readonly key?: string | undefined
      }
    | undefined
  /** Of a hosted RocketMQ whose instance asks for one. Default: none. */
  readonly namespace?: string | undefined
  /** Of one call; 1,000-60,000. Default 5,000. */
  readonly requestTimeoutMs?: number | undefined
}

const CONNECTION = ['endpoints', 'credentials', 'tls', 'namespace', 'requestTimeoutMs']
const ADDRESS = /^[^\s,:/@]+:\d{1,5}$/

/** The error of an option. A secret's value is never shown. */
export function invalidOption(factory: string, option: string, bound: string, value?: unknown): EscrowError {
  const shown = value === undefined ? '' : `${JSON.stringify(value)?.slice(0, 100)} `
  return new EscrowError('invalidArgument', `option ${option} of ${factory}(): ${shown}is not ${bound}`, {
    details: { option },
  })
}

/** Checks what every factory of RocketMQ takes, and that there is nothing else but `others`. Throws `invalidArgument`. */
export function parseConnection(factory: string, options: unknown, others: readonly string[]): LinkOptions {
  if (typeof options !== 'object' || options === null)
    throw new EscrowError('invalidArgument', `the options of ${factory}() are not an object`)
  checkNames(factory, '', options, [...CONNECTION, ...others])
  const {
    endpoints,
    credentials,
    tls,
    namespace = '',
    requestTimeoutMs = 5_000,
  } = options as RocketmqConnection
  if (!Number.isSafeInteger(requestTimeoutMs) || requestTimeoutMs < 1_000 || requestTimeoutMs > 60_000)
    throw invalidOption(factory, 'requestTimeoutMs', 'a whole number, 1000-60000', requestTimeoutMs)
  if (typeof namespace !== 'string') throw invalidOption(factory, 'namespace', 'a text', namespace)
  const addresses = parseAddresses(factory, 'endpoints', endpoints)
  if (addresses.length > 1 && !addresses.every((each) => isIPv4(each.split(':')[0] as string)))
    throw invalidOption(factory, 'endpoints', 'one host:port, or several IPv4 addresses', endpoints)
  return {
    endpoints: addresses.join(','),
    credentials: parseCredentials(factory, credentials),
    tls: parseTls(factory, tls),
    namespace,
    requestTimeoutMs,
  }
}

/** `host:port` with commas between. Throws `invalidArgument`. */
export function parseAddresses(factory: string, option: string, value: unknown): readonly string[] {
  const addresses = typeof value === 'string' ? value.split(',').map((each) => each.trim()) : []
  // Shown only where it has no place for a password.
  const shown = typeof value === 'string' && value.includes('@') ? undefined : (value ?? null)
  if (addresses.length === 0 || !addresses.every((each) => ADDRESS.test(each)))
    throw invalidOption(factory, option, 'host:port, or several with commas', shown)
  return addresses
}

function parseCredentials(factory: string, credentials: unknown): LinkOptions['credentials'] {
  if (credentials === undefined) return undefined
  if (typeof credentials !== 'object' || credentials === null)
    throw invalidOption(factory, 'credentials', 'an object with accessKey and accessSecret')
  checkNames(factory, 'credentials.', credentials, ['accessKey', 'accessSecret', 'securityToken'])
  for (const [name, value] of Object.entries({
    accessKey: undefined,
    accessSecret: undefined,
    ...credentials,
  }))
    if ((typeof value !== 'string' || value === '') && !(name === 'securityToken' && value === undefined))
      throw invalidOption(factory, `credentials.${name}`, 'a text')
  return credentials as LinkOptions['credentials']
}

function parseTls(factory: string, tls: unknown): LinkOptions['tls'] {
  if (tls === undefined || tls === false) return undefined
  if (tls === true) return {}
  if (typeof tls !== 'object' || tls === null)
    throw invalidOption(factory, 'tls', 'true, false or an object with ca, cert, key')
  checkNames(factory, 'tls.', tls, ['ca', 'cert', 'key'])
  for (const [name, value] of Object.entries(tls))
    if (value !== undefined && (typeof value !== 'string' || !value.includes('-----BEGIN')))
      throw invalidOption(factory, `tls.${name}`, 'a PEM text')
  const { cert, key } = tls as { cert?: string; key?: string }
  if ((cert === undefined) !== (key === undefined))
    throw invalidOption(factory, 'tls', 'complete: cert and key belong together')
  return tls as LinkOptions['tls']
}

function checkNames(factory: string, prefix: string, options: object, known: readonly string[]): void {
  const stranger = Object.keys(options).find((name) => !known.includes(name))
  if (stranger === undefined) return
  throw new EscrowError(
    'invalidArgument',
    `option ${prefix}${stranger} of ${factory}() is none: known are ${known.join(', ')}`,
    { details: { option: `${prefix}${stranger}` } },
  )
}
