/** Participants as they stand in the configuration: where they are called, and what calls to them are held to. */
import { integer, invalid, list, record, text } from './config-fields.ts'
import type { Registration } from './core/api.ts'
import { type Namespace, parseName, parseNamespace } from './core/ids.ts'
import { parseListenerUrl } from './core/listener-url.ts'

/** A participant, as it stands in the configuration. */
export interface ParticipantSettings {
  /** `grpc://host:port` or `http://host:port` of one that listens and is called. Default: it connects by itself. */
  readonly url?: string | undefined
  /** With `url`: the handlers that it has, each reached as `service/handler`. Default: none. */
  readonly handlers?: readonly string[] | undefined
  /** With `url`: the steps of sagas that it has. Default: none. */
  readonly steps?: readonly string[] | undefined
  /** With `url`: the checkers that it has. Default: none. */
  readonly checkers?: readonly string[] | undefined
  /** With `url`: the database of its barrier, as its barrier tells it. Default: none. */
  readonly databaseId?: string | undefined
  /** Default `default`. */
  readonly namespace?: string | undefined
  /**
   * Calls of its steps, compensations included, that may be under way at once, over all definitions and routing slips and
   * beside what a step's own `concurrencyMax` says: 1 to 1,000,000; default 0, no limit. Others wait in turns, those that
   * undo first; what waits is no attempt yet.
   */
  readonly concurrencyMax?: number | undefined
  /** The same for calls that begin in a second, a second's worth at once: 1 to 1,000,000; default 0, no limit. */
  readonly ratePerSecond?: number | undefined
}

/** A participant that listens, parsed. */
export interface ListeningParticipant {
  readonly namespace: Namespace
  readonly service: string
  readonly url: string
  readonly registration: Registration
}

/** What calls of a participant's steps are held to, parsed. 0: no limit. */
export interface ParticipantLimits {
  readonly namespace: Namespace
  readonly service: string
  readonly concurrencyMax: number
  readonly ratePerSecond: number
}

const LISTENING = ['handlers', 'steps', 'checkers', 'databaseId'] as const
const LIMIT_MAX = 1_000_000

/** Parses the participants of the options. Throws `invalidArgument`. */
export function parseParticipants(
  given: Readonly<Record<string, unknown>> | undefined,
  namespaces: readonly string[],
): {
  readonly participants: readonly ListeningParticipant[]
  readonly participantLimits: readonly ParticipantLimits[]
} {
  const parsed = Object.entries(record('participants', given ?? {})).map(([service, each]) =>
    parseParticipant(service, each, namespaces),
  )
  return {
    participants: parsed.flatMap(({ listening }) => listening ?? []),
    participantLimits: parsed.flatMap(({ limits }) => limits ?? []),
  }
}

function parseParticipant(
  service: string,
  given: unknown,
  namespaces: readonly string[],
): { readonly listening?: ListeningParticipant; readonly limits?: ParticipantLimits } {
  const name = `participants.${service}`
  parseName('participants: service', service)
  const options = record(name, given, ['url', ...LISTENING, 'namespace', 'concurrencyMax', 'ratePerSecond'])
  const namespace = parseNamespace(text(`${name}.namespace`, options.namespace ?? 'default'))
  if (!namespaces.includes(namespace))
    throw invalid(`${name}.namespace`, namespace, `one of namespaces: ${namespaces.join(', ')}`)
  const [concurrencyMax, ratePerSecond] = (['concurrencyMax', 'ratePerSecond'] as const).map((limit) =>
    integer(`${name}.${limit}`, options[limit] ?? 0, 0, LIMIT_MAX),
  ) as [number, number]
  const isLimited = concurrencyMax > 0 || ratePerSecond > 0
  const limits = isLimited ? { namespace, service, concurrencyMax, ratePerSecond } : undefined
  if (limits !== undefined && options.url === undefined) {
    const stranger = LISTENING.find((field) => options[field] !== undefined)
    if (stranger !== undefined)
      throw invalid(`${name}.${stranger}`, options[stranger], 'known without a url: it registers by itself')
    return { limits }
  }
  const listening = {
    namespace,
    service,
    url: parseListenerUrl(text(`${name}.url`, options.url)).url,
    registration: {
      handlers: list(`${name}.handlers`, options.handlers ?? []),
      steps: list(`${name}.steps`, options.steps ?? []),
      checkers: list(`${name}.checkers`, options.checkers ?? []),
      databaseId: text(`${name}.databaseId`, options.databaseId ?? ''),
    },
  }
  return limits === undefined ? { listening } : { listening, limits }
}
