import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import {
  type DescMessage,
  type DescMethod,
  fromBinary,
  fromJson,
  type JsonValue,
  type MessageShape,
  toBinary,
  toJsonString,
} from '@bufbuild/protobuf'
import { EscrowError } from '../core/errors.ts'
import { requestTooLarge } from './unary.ts'

type AnyMessage = MessageShape<DescMessage>

/** One of the two forms in which bodies travel. */
export interface Codec {
  readonly contentType: string
  /** Throws `malformed`. */
  decode(desc: DescMethod, body: Buffer): AnyMessage
  encode(desc: DescMethod, message: AnyMessage): string | Uint8Array
}

const JSON_CODEC: Codec = {
  contentType: 'application/json',
  decode: ({ input }, body) => {
    let value: JsonValue
    try {
      value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
    } catch (cause) {
      const why = body.length === 0 ? 'it is empty, send {} at least' : (cause as Error).message
      throw new EscrowError('malformed', `the body is no JSON: ${why}`, { cause })
    }
    try {
      // A field that isn't known is refused, not dropped: it may be a policy with a typing error in its name.
      return fromJson(input, value, { ignoreUnknownFields: false })
    } catch (cause) {
      throw new EscrowError('malformed', `the body is no ${input.typeName}: ${(cause as Error).message}`, {
        cause,
      })
    }
  },
  encode: ({ output }, message) => toJsonString(output, message),
}

const PROTO_CODEC: Codec = {
  contentType: 'application/proto',
  decode: ({ input }, body) => {
    try {
      return fromBinary(input, body)
    } catch (cause) {
      throw new EscrowError('malformed', `the body is no ${input.typeName}: ${(cause as Error).message}`, {
        cause,
      })
    }
  },
  encode: ({ output }, message) => toBinary(output, message),
}

/**
 * The codec that a request's media type names; undefined for any other. `curl -d` without a header says that it sends a
 * form: taken as JSON, but never from a web page, which could otherwise send one here from any site without asking.
 */
export function codecOf(headers: IncomingHttpHeaders): Codec | undefined {
  const [type = ''] = (headers['content-type'] ?? '').toLowerCase().split(';', 1)
  switch (type.trim()) {
    case 'application/json':
      return JSON_CODEC
    case 'application/proto':
      return PROTO_CODEC
    case '':
    case 'application/x-www-form-urlencoded':
      return headers.origin === undefined && headers['sec-fetch-site'] === undefined ? JSON_CODEC : undefined
    default:
      return undefined
  }
}

const unzip = promisify(gunzip)

/** Reads a body of at most `bytesMax`, as sent and when decompressed. Rejects with `tooLarge`, `malformed`, `disconnected`. */
export async function readBody(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  const encoding = request.headers['content-encoding'] ?? 'identity'
  if (encoding !== 'identity' && encoding !== 'gzip') {
    throw new EscrowError('malformed', `content-encoding ${JSON.stringify(encoding)} isn't identity or gzip`)
  }
  const announced = Number(request.headers['content-length'] ?? 0)
  if (announced > bytesMax) throw requestTooLarge(announced, bytesMax)
  const body = await collect(request, bytesMax)
  if (encoding === 'identity') return body
  try {
    return await unzip(body, { maxOutputLength: bytesMax })
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE')
      throw requestTooLarge(bytesMax + 1, bytesMax)
    throw new EscrowError('malformed', `the body is no gzip: ${(cause as Error).message}`, { cause })
  }
}

/** Collects without `for await`, which would destroy the socket before a refusal could be sent on it. */
function collect(stream: IncomingMessage, bytesMax: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    stream.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes <= bytesMax) {
        chunks.push(chunk)
        return
      }
      stream.pause()
      stream.removeAllListeners('data')
      reject(requestTooLarge(bytes, bytesMax))
    })
    stream.once('end', () => resolve(Buffer.concat(chunks, bytes)))
    stream.once('error', (cause) =>
      reject(new EscrowError('disconnected', 'the request broke off', { cause })),
    )
    stream.once('close', () => reject(new EscrowError('disconnected', 'the request broke off')))
  })
}
