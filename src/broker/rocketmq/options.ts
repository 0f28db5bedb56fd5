/** The gate of RocketMQ's options, for the adapter and for `rocketmqNative`. */
import { isIPv4 } from 'node:net'
import { OptionGate } from '../option-gate.ts'
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

const CONNECTION = ['endpoints', 'credentials', 'tls', 'namespace', 'requestTimeoutMs'] as const
const ADDRESS = /^[^\s,:/@]+:\d{1,5}$/

/** The gate of a factory's options: what every factory of RocketMQ takes, and `others`. Throws `invalidArgument`. */
export function rocketmqGate(factory: string, options: unknown, others: readonly string[]): OptionGate {
  return new OptionGate(factory, options, [...CONNECTION, ...others])
}

/** Checks and completes what every factory of RocketMQ takes. Throws `invalidArgument`. */
export function parseConnection(gate: OptionGate, { endpoints, tls }: RocketmqConnection): LinkOptions {
  const addresses = parseAddresses(gate, 'endpoints', endpoints)
  if (addresses.length > 1 && !addresses.every((each) => isIPv4(each.split(':')[0] as string)))
    throw gate.invalid('endpoints', 'one host:port, or several IPv4 addresses', endpoints)
  return {
    endpoints: addresses.join(','),
    credentials: parseCredentials(gate),
    tls: parseTls(gate, tls),
    namespace: gate.matching('namespace', /^.*$/s, 'a text') ?? '',
    requestTimeoutMs: gate.integer('requestTimeoutMs', 1_000, 60_000) ?? 5_000,
  }
}

/** `host:port` with commas between. Throws `invalidArgument`. */
export function parseAddresses(gate: OptionGate, option: string, value: unknown): readonly string[] {
  const addresses = typeof value === 'string' ? value.split(',').map((each) => each.trim()) : []
  // Shown only where it has no place for a password.
  const shown = typeof value === 'string' && value.includes('@') ? undefined : (value ?? null)
  if (addresses.length === 0 || !addresses.every((each) => ADDRESS.test(each)))
    throw gate.invalid(option, 'host:port, or several with commas', shown)
  return addresses
}

function parseCredentials(gate: OptionGate): LinkOptions['credentials'] {
  const given = gate.inner('credentials', ['accessKey', 'accessSecret', 'securityToken'])
  return (
    given && {
      accessKey: given.text('accessKey') ?? given.missing('accessKey'),
      accessSecret: given.text('accessSecret') ?? given.missing('accessSecret'),
      securityToken: given.text('securityToken'),
    }
  )
}

function parseTls(gate: OptionGate, tls: unknown): LinkOptions['tls'] {
  if (tls === undefined || typeof tls === 'boolean') return tls ? {} : undefined
  const given = gate.inner('tls', ['ca', 'cert', 'key'], 'true, false or an object with ca, cert, key')
  const pem = (option: string) => {
    const text = given?.text(option)
    if (text?.includes('-----BEGIN') === false) throw given?.invalid(option, 'a PEM text')
    return text
  }
  const [ca, cert, key] = [pem('ca'), pem('cert'), pem('key')]
  if ((cert === undefined) !== (key === undefined))
    throw gate.invalid('tls', 'complete: cert and key belong together')
  return { ca, cert, key }
}
