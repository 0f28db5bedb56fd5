import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type DescMessage, fromJsonString, toJsonString } from '@bufbuild/protobuf'
import { EscrowError } from '../core/errors.ts'
import { errorToHttp } from '../wire/errors.ts'
import type { ListeningServer } from './listen-grpc.ts'
import { CALLS, type ListenedCall, REQUEST_BYTES_MAX, readError } from './listened-calls.ts'
import type { Serving } from './serving.ts'

/** Offers ParticipantService over HTTP with JSON: `POST /escrow.v1.ParticipantService/Deliver`. Rejects with `invalidArgument` where it can't listen. */
export async function listenHttp(serving: Serving, host: string, port: number): Promise<ListeningServer> {
  const active = new Set<ServerResponse>()
  const server = createServer((request, response) => {
    active.add(response)
    response.once('close', () => active.delete(response))
    answer(serving, request, response).catch(() => response.destroy())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      reject(
        new EscrowError('invalidArgument', `can't listen on ${host}:${port}: ${cause.message}`, { cause }),
      )
    })
    server.listen(port, host, resolve)
  })
  return {
    port: (server.address() as AddressInfo).port,
    drain: () => drain(server, active),
    force: () => server.closeAllConnections(),
  }
}

function drain(server: Server, active: ReadonlySet<ServerResponse>): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeIdleConnections()
    // What is answered from now on must not leave a connection behind that is kept alive for nobody.
    for (const response of active) if (!response.headersSent) response.setHeader('connection', 'close')
  })
}

async function answer(serving: Serving, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname } = new URL(request.url ?? '/', 'http://participant')
  const call = CALLS.find(({ path }) => path === pathname)
  const paths = CALLS.map(({ path }) => path).join(' and ')
  if (call === undefined) {
    fail(response, 404, new EscrowError('unsupported', `there is no ${pathname} here, but ${paths}`))
  } else if (request.method !== 'POST') {
    fail(response, 405, new EscrowError('unsupported', `${request.method} is not POST`), { allow: 'POST' })
  } else if (!/^application\/json *(;|$)/i.test(request.headers['content-type'] ?? '')) {
    const type = JSON.stringify(request.headers['content-type'] ?? '')
    fail(response, 415, new EscrowError('unsupported', `content-type ${type} is not application/json`))
  } else {
    const text = await readText(request)
    if (text !== undefined) take(serving, call, text, response)
    else {
      const error = new EscrowError(
        'tooLarge',
        `the request is over the limit requestBytesMax of ${REQUEST_BYTES_MAX}`,
      )
      fail(response, 413, error, { connection: 'close' })
    }
  }
}

function take(
  serving: Serving,
  call: ListenedCall<DescMessage, DescMessage>,
  text: string,
  response: ServerResponse,
): void {
  try {
    const message = fromJsonString(call.input, text, { ignoreUnknownFields: true })
    call.take(serving, message, (answered) => send(response, 200, toJsonString(call.output, answered)))
  } catch (thrown) {
    fail(response, 400, readError(call.name, thrown))
  }
}

/** The whole body; undefined when it is too long. */
async function readText(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = []
  let bytes = 0
  // Not destroyed when it is too long: the answer that says so leaves on the same socket.
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > REQUEST_BYTES_MAX) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

function fail(
  response: ServerResponse,
  httpStatus: number,
  error: EscrowError,
  headers: Record<string, string> = {},
): void {
  const told = errorToHttp(error)
  send(response, httpStatus, told.body, { ...told.headers, ...headers })
}

function send(
  response: ServerResponse,
  httpStatus: number,
  json: string,
  headers: Record<string, string> = {},
): void {
  const length = Buffer.byteLength(json)
  response.writeHead(httpStatus, { ...headers, 'content-type': 'application/json', 'content-length': length })
  response.end(json)
}
