import { EscrowError } from './errors.ts'

/** Where a participant that listens is called. */
export interface ListenerUrl {
  readonly protocol: 'grpc' | 'http'
  readonly host: string
  readonly port: number
  /** The same again, in the one form that is stored and compared. */
  readonly url: string
}

const URL_BYTES_MAX = 512

/** Parses `grpc://host:port` or `http://host:port`. Throws `invalidArgument`. */
export function parseListenerUrl(value: string): ListenerUrl {
  const invalid = (why: string) =>
    new EscrowError(
      'invalidArgument',
      `url ${JSON.stringify(value.slice(0, 100))} ${why}: give grpc://host:port or http://host:port`,
    )
  if (value.length > URL_BYTES_MAX) throw invalid(`is longer than ${URL_BYTES_MAX} bytes`)
  const scheme = value.slice(0, 7)
  if (scheme !== 'grpc://' && scheme !== 'http://') throw invalid('has another scheme')
  // URL knows ports and IPv6 hosts of http, and of schemes that it doesn't know it parses little.
  const parsed = URL.parse(`http://${value.slice(7)}`)
  if (parsed === null) throw invalid('is no URL')
  if (parsed.username !== '' || parsed.password !== '') throw invalid('has credentials in it')
  if (parsed.pathname !== '/' || parsed.search !== '' || parsed.hash !== '')
    throw invalid('has more than host and port')
  const protocol = scheme === 'grpc://' ? 'grpc' : 'http'
  if (protocol === 'grpc' && parsed.port === '' && !value.endsWith(':80')) throw invalid('has no port')
  const port = parsed.port === '' ? 80 : Number(parsed.port)
  return { protocol, host: parsed.hostname, port, url: `${protocol}://${parsed.hostname}:${port}` }
}
