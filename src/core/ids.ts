import { EscrowError } from './errors.ts'

declare const brand: unique symbol
type Branded<Name extends string> = string & { readonly [brand]: Name }

/** The id of a global transaction, unique in its namespace. */
export type TransactionId = Branded<'TransactionId'>
/** The id of one execution (a local transaction, a delivery, an entry into a step), unique for ever. */
export type ExecutionId = Branded<'ExecutionId'>
/** The scope of ids, names, keys and destinations. */
export type Namespace = Branded<'Namespace'>
/** `service/handler` of a participant, or `broker:topic`. */
export type Destination = Branded<'Destination'>
/** Namespace and id in one string: the key of a transaction in maps and stores. */
export type TransactionKey = Branded<'TransactionKey'>

/** How many slots ids map to, for ever. */
export const SLOTS = 4096
/** The bytes of the longest id of a transaction. */
export const ID_BYTES_MAX = 512
/** The bytes of the longest ordering key, before it is percent-encoded. */
export const ORDERING_KEY_BYTES_MAX = 128

const NAME = /^[a-z0-9][a-z0-9-]{0,62}$/
const TOPIC = /^[\x21-\x7e]{1,255}$/
// A lone surrogate would be stored as another character: the id would not be found again.
const CLIENT_ID = /^[^~\s\p{Cc}\p{Cs}]+$/u
// Its routing part is what `encodeURIComponent` leaves, so that characters are bytes.
const MINTED_ID = /^\{[\w.!*'()%-]+\}~([0-9a-z]+)-([0-9a-z]+)\.([0-9a-z]+)$/

const invalid = (what: string, value: string, expected: string): EscrowError =>
  new EscrowError('invalidArgument', `${what} ${JSON.stringify(value.slice(0, 100))} is not ${expected}`)

/** Parses a name (namespace, service, checker, handler): 1-63 of a-z, 0-9 and '-', not first a '-'. Throws `invalidArgument`. */
export function parseName(what: string, value: string): string {
  if (!NAME.test(value)) throw invalid(what, value, "a name of 1-63 characters of a-z, 0-9 and '-'")
  return value
}

/** Parses a namespace; empty is `default`. Throws `invalidArgument`. */
export function parseNamespace(value: string): Namespace {
  return (value === '' ? 'default' : parseName('namespace', value)) as Namespace
}

/** Parses a destination. Throws `invalidArgument`. */
export function parseDestination(value: string): Destination {
  const slash = value.indexOf('/')
  const colon = value.indexOf(':')
  const participant = slash > 0 && NAME.test(value.slice(0, slash)) && NAME.test(value.slice(slash + 1))
  const broker = colon > 0 && NAME.test(value.slice(0, colon)) && TOPIC.test(value.slice(colon + 1))
  if (!participant && !broker) {
    throw invalid('destination', value, '"service/handler" of a participant or "broker:topic"')
  }
  return value as Destination
}

/** The parts of a destination: a participant's service and handler, or a broker and its topic. */
export type DestinationParts =
  | { readonly kind: 'participant'; readonly service: string; readonly handler: string }
  | { readonly kind: 'broker'; readonly broker: string; readonly topic: string }

/** Takes a parsed destination apart. */
export function destinationParts(destination: Destination): DestinationParts {
  const colon = destination.indexOf(':')
  if (colon > 0) {
    return { kind: 'broker', broker: destination.slice(0, colon), topic: destination.slice(colon + 1) }
  }
  const slash = destination.indexOf('/')
  return { kind: 'participant', service: destination.slice(0, slash), handler: destination.slice(slash + 1) }
}

/** Parses an id that a caller chose: 1-512 bytes of well-formed Unicode without white space, control characters or '~'. Throws `invalidArgument`. */
export function parseClientId(value: string): TransactionId {
  if (!CLIENT_ID.test(value))
    throw invalid('id', value, "well-formed text free of white space, control characters and '~'")
  if (Buffer.byteLength(value) > ID_BYTES_MAX)
    throw invalid('id', value, `at most ${ID_BYTES_MAX} bytes long`)
  return value as TransactionId
}

/** Parses any id, chosen or minted. Throws `invalidArgument`. */
export function parseTransactionId(value: string): TransactionId {
  if (MINTED_ID.test(value) && value.length <= ID_BYTES_MAX) return value as TransactionId
  return parseClientId(value)
}

/** Mints an id: `{routing}~session.counter`. The session is `<milliseconds>-<unique>` in base 36, so that an id tells its age. */
export function mintTransactionId(routing: string, session: string, counter: number): TransactionId {
  return `{${routing}}~${session}.${counter.toString(36)}` as TransactionId
}

/** Whether a parsed id was minted: a caller's own has no '~'. */
export function isMintedId(id: TransactionId): boolean {
  return id.includes('~')
}

/** What a minted id tells of itself; undefined for an id that a caller chose. */
export function mintedIdParts(
  id: string,
): { session: string; counter: number; sessionStartedAtMs: number } | undefined {
  const parts = MINTED_ID.exec(id)
  if (parts === null) return undefined
  const [, startedAt = '', unique = '', counter = ''] = parts
  return {
    session: `${startedAt}-${unique}`,
    counter: Number.parseInt(counter, 36),
    sessionStartedAtMs: Number.parseInt(startedAt, 36),
  }
}

/** The counter of an id that this session minted; undefined for any other. Hot: no expression takes the id apart. */
export function mintedCounter(id: string, session: string): number | undefined {
  const at = id.indexOf('}~') + 2
  const end = at + session.length
  if (at < 2 || id.charCodeAt(end) !== 46 || !id.startsWith(session, at)) return undefined
  const counter = Number.parseInt(id.slice(end + 1), 36)
  return Number.isNaN(counter) ? undefined : counter
}

/** The key of a transaction in maps and stores. */
export function transactionKey(namespace: Namespace, id: TransactionId): TransactionKey {
  return `${namespace}/${id}` as TransactionKey
}

/** Namespace and id of a key. */
export function transactionKeyParts(key: TransactionKey): { namespace: Namespace; id: TransactionId } {
  const slash = key.indexOf('/')
  return { namespace: key.slice(0, slash) as Namespace, id: key.slice(slash + 1) as TransactionId }
}

/** The routing part of an ordering key: percent-encoded, so that no brace or '~' of it can end it. Throws `invalidArgument`. */
export function orderingKeyRouting(orderingKey: string): string {
  const bytes = Buffer.byteLength(orderingKey)
  if (bytes < 1 || bytes > ORDERING_KEY_BYTES_MAX) {
    throw new EscrowError(
      'invalidArgument',
      `orderingKey is ${bytes} bytes long, allowed are 1-${ORDERING_KEY_BYTES_MAX}`,
    )
  }
  if (!orderingKey.isWellFormed())
    throw new EscrowError('invalidArgument', 'orderingKey is not well-formed Unicode')
  return encodeURIComponent(orderingKey).replaceAll('~', '%7E')
}

/** The routing part of an id: what stands in its first braces if anything does, else the whole (as Redis Cluster's hash tags). */
export function routingPart(id: string): string {
  const open = id.indexOf('{')
  if (open < 0) return id
  const close = id.indexOf('}', open + 1)
  return close > open + 1 ? id.slice(open + 1, close) : id
}

const CRC16 = new Uint16Array(256)
for (let byte = 0; byte < 256; byte++) {
  let crc = byte << 8
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1
  CRC16[byte] = crc & 0xffff
}

/** The slot of an id: CRC-16/XMODEM of its routing part in UTF-8, as Redis Cluster has it, modulo 4,096. For ever the same. */
export function slotOf(id: string): number {
  const part = routingPart(id)
  let crc = 0
  for (let i = 0; i < part.length; i++) {
    const code = part.charCodeAt(i)
    if (code > 127) return slotOfBytes(Buffer.from(part))
    crc = ((crc << 8) & 0xffff) ^ (CRC16[((crc >> 8) ^ code) & 0xff] as number)
  }
  return crc % SLOTS
}

function slotOfBytes(bytes: Uint8Array): number {
  let crc = 0
  for (const byte of bytes) crc = ((crc << 8) & 0xffff) ^ (CRC16[((crc >> 8) ^ byte) & 0xff] as number)
  return crc % SLOTS
}

/** Routing parts spread evenly over all slots. */
export function routingsOf(count: number): readonly string[] {
  const found: string[] = []
  for (let tag = 0; found.length < count; tag++) {
    const name = tag.toString(36)
    if (Math.floor((slotOf(name) * count) / SLOTS) === found.length) found.push(name)
  }
  return found
}
