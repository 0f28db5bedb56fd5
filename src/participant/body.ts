import { EscrowError } from '../core/errors.ts'

/** What a message may carry: bytes as they are, a string as UTF-8 text, anything else as JSON. */
export type BodyInput = Uint8Array | string | number | boolean | null | readonly unknown[] | object

/** Bytes and their media type. */
export interface EncodedBody {
  readonly bytes: Uint8Array
  readonly contentType: string
}

/** Encodes a body. Throws `invalidArgument` for what JSON has no form for. */
export function encodeBody(what: string, body: unknown): EncodedBody {
  if (body instanceof Uint8Array) return { bytes: body, contentType: 'application/octet-stream' }
  if (typeof body === 'string') return { bytes: Buffer.from(body), contentType: 'text/plain; charset=utf-8' }
  return { bytes: Buffer.from(jsonOf(what, body)), contentType: 'application/json' }
}

/** Encodes a value as JSON; bytes are taken for JSON, and undefined for none. Throws `invalidArgument`. */
export function encodeJson(what: string, value: unknown): Uint8Array | undefined {
  if (value === undefined || value instanceof Uint8Array) return value
  return Buffer.from(jsonOf(what, value))
}

function jsonOf(what: string, value: unknown): string {
  let json: string | undefined
  try {
    json = JSON.stringify(value)
  } catch (cause) {
    throw new EscrowError('invalidArgument', `${what} has no form in JSON`, { cause })
  }
  if (json !== undefined) return json
  throw new EscrowError('invalidArgument', `${what} is ${typeof value}, which has no form in JSON`)
}
