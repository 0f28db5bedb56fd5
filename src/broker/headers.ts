/** The headers by which every consumer knows a message, whichever broker brought it. */
import type { BrokerMessage, MessageText } from './broker.ts'

const ID = 'escrow-id'
const KEY = 'escrow-key'
const CONTENT_TYPE = 'content-type'

/** All headers of a message, as text: its own, and those that say what it is. `escrow-key` only where there is a key. */
export function headersOf({ id, key, contentType, headers }: BrokerMessage): Record<string, string> {
  const all: Record<string, string> = { ...headers, [ID]: id }
  if (key !== '') all[KEY] = key
  if (contentType !== '') all[CONTENT_TYPE] = contentType
  return all
}

/**
 * The first of the headers of a message that has a fault, by what `of` says of a name and its value; undefined for none. As in
 * `headersOf`, an empty key is no header, nor is an empty content type.
 */
export function headerFault(
  { key, contentType, headers }: MessageText,
  of: (name: string, value: string) => string | undefined,
): string | undefined {
  for (const name in headers) {
    const fault = of(name, headers[name] as string)
    if (fault !== undefined) return `header ${JSON.stringify(name)} ${fault}`
  }
  const ofKey = key === '' ? undefined : of(KEY, key)
  if (ofKey !== undefined) return `the key ${ofKey}`
  const ofType = contentType === '' ? undefined : of(CONTENT_TYPE, contentType)
  return ofType === undefined ? undefined : `the content type ${ofType}`
}

/** The message that a broker brought. One that didn't come from Escrow has the id that `otherwise` gives. */
export function messageOf(
  topic: string,
  headers: Readonly<Record<string, string>>,
  body: Uint8Array,
  otherwise: { readonly id: string; readonly key: string },
): BrokerMessage {
  const {
    [ID]: id = otherwise.id,
    [KEY]: key = otherwise.key,
    [CONTENT_TYPE]: contentType = '',
    ...own
  } = headers
  return { topic, id, key, body, headers: own, contentType }
}

/** The bytes of a message as its broker counts them, nearly: body, key and headers. */
export function bytesOf(message: BrokerMessage): number {
  let bytes = message.body.length
  for (const [name, value] of Object.entries(headersOf(message)))
    bytes += Buffer.byteLength(name) + Buffer.byteLength(value)
  return bytes
}
