/**
 * The HTTP server: the methods of CoordinatorService as the Connect protocol's unary calls (connectrpc.com/docs/protocol),
 * JSON and binary, and the two health checks.
 *
 * The protocol is spoken here, on node:http, and not by @connectrpc/connect-node: there a body that can't be decoded, a
 * wrong method and a wrong media type end in errors that carry neither code nor remedy and that no interceptor sees, and
 * a call takes at least four times the processor time. The tests hold this server to that library's client.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Address } from '../core/address.ts'
import { EscrowError } from '../core/errors.ts'
import type { Coordination } from '../engine/coordination.ts'
import { errorToHttp } from '../wire/errors.ts'
import { type Codec, codecOf, readBody } from './http-body.ts'
import { listenError } from './listen-error.ts'
import { traceOfHeaders } from './trace.ts'
import type { UnaryContext, UnaryMethod } from './unary.ts'

/** What the HTTP server is made of. */
export interface HttpServerOptions {
  readonly host: string
  /** 0: any that is free. */
  readonly port: number
  readonly methods: ReadonlyMap<string, UnaryMethod>
  readonly coordination: Pick<Coordination, 'health'>
  /** Of one request, as sent and when decompressed. */
  readonly requestBytesMax: number
  /** Connections over this are closed as they come. */
  readonly connectionsMax: number
}

/** A request whose headers or body dribble in longer than this is ended: it would hold its connection for ever. */
const REQUEST_MS_MAX = 60_000

/** The HTTP server. */
export class HttpServer {
  readonly #options: HttpServerOptions
  readonly #server: Server
  #stopping = false

  constructor(options: HttpServerOptions) {
    this.#options = options
    this.#server = createServer(
      { requestTimeout: REQUEST_MS_MAX, keepAliveTimeout: 65_000 },
      (request, response) => {
        this.#handle(request, response).catch((thrown: unknown) =>
          this.#fail(response, EscrowError.from(thrown)),
        )
      },
    )
    this.#server.maxConnections = options.connectionsMax
  }

  /** Listens. Rejects with `invalidArgument` where it can't. */
  async start(): Promise<Address> {
    const { host, port } = this.#options
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (error) => reject(listenError('http', { host, port }, error)))
      this.#server.listen({ host, port }, resolve)
    })
    return { host, port: (this.#server.address() as AddressInfo).port }
  }

  /** Takes no new connections, answers what is under way for at most `graceMs`, then closes what is left. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true
    if (!this.#server.listening) return
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.#server.closeIdleConnections()
    const timer = setTimeout(() => this.#server.closeAllConnections(), graceMs)
    await closed
    clearTimeout(timer)
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const [path = ''] = (request.url ?? '').split('?', 1)
    if (path === '/healthz' || path === '/readyz') return this.#health(path, request, response)
    const method = this.#options.methods.get(path)
    if (method === undefined) return this.#fail(response, this.#nothingAt(path), { status: 404 })
    if (request.method !== 'POST') {
      const error = new EscrowError('malformed', `${path} takes POST, not ${request.method}`)
      return this.#fail(response, error, { status: 405, headers: { allow: 'POST' } })
    }
    const codec = codecOf(request.headers)
    if (codec === undefined) {
      const type = JSON.stringify(request.headers['content-type'] ?? '')
      const error = new EscrowError(
        'malformed',
        `content-type ${type} isn't application/json or application/proto`,
      )
      return this.#fail(response, error, {
        status: 415,
        headers: { 'accept-post': 'application/json, application/proto' },
      })
    }
    await this.#call(method, codec, request, response)
  }

  async #call(
    method: UnaryMethod,
    codec: Codec,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const context = contextOf(request)
    const message = codec.decode(method.desc, await readBody(request, this.#options.requestBytesMax))
    const answer = codec.encode(method.desc, await method.call(message, context))
    this.#send(response, 200, { 'content-type': codec.contentType }, answer)
  }

  #health(path: string, request: IncomingMessage, response: ServerResponse): void {
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      const error = new EscrowError('malformed', `${path} takes GET, not ${request.method}`)
      return this.#fail(response, error, { status: 405, headers: { allow: 'GET, HEAD' } })
    }
    const health = this.#stopping
      ? { state: 'draining', reason: 'the server is stopping' }
      : this.#options.coordination.health()
    // Alive as long as it answers: an orchestrator that restarts it because its store is away would only make it worse.
    const status = path === '/healthz' || health.state === 'ready' ? 200 : 503
    const body = `${JSON.stringify(health)}\n`
    this.#send(response, status, { 'content-type': 'application/json', 'cache-control': 'no-store' }, body)
  }

  #nothingAt(path: string): EscrowError {
    const methods = [...this.#options.methods.values()]
    const service = methods[0]?.desc.parent.typeName
    const names = methods.map(({ desc }) => desc.name).join(', ')
    return new EscrowError(
      'unsupported',
      `there is nothing at ${JSON.stringify(path.slice(0, 100))}: POST /${service}/ and one of ${names}, GET /healthz, GET /readyz`,
    )
  }

  #fail(
    response: ServerResponse,
    error: EscrowError,
    more: { status?: number; headers?: Record<string, string> } = {},
  ): void {
    const { httpStatus, headers, body } = errorToHttp(error)
    const all = { ...headers, ...more.headers, 'content-type': 'application/json' }
    this.#send(response, more.status ?? httpStatus, all, `${body}\n`)
  }

  #send(
    response: ServerResponse,
    status: number,
    headers: Record<string, string>,
    body: string | Uint8Array,
  ): void {
    // The caller has hung up: what was decided stands, and is there to be asked for.
    if (response.headersSent || response.destroyed) return
    // A body that was not read to its end would be taken for the next request; a server that stops wants no next one.
    if (this.#stopping || !response.req.complete) response.setHeader('connection', 'close')
    response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) })
    response.end(response.req.method === 'HEAD' ? undefined : body)
    if (!response.req.complete) response.once('finish', () => response.req.destroy())
  }
}

function contextOf({ headers }: IncomingMessage): UnaryContext {
  const version = headers['connect-protocol-version']
  if (version !== undefined && version !== '1') {
    throw new EscrowError(
      'malformed',
      `connect-protocol-version ${JSON.stringify(version)} isn't 1, the only one there is`,
    )
  }
  const timeout = headers['connect-timeout-ms']
  if (timeout !== undefined && !/^\d{1,10}$/.test(String(timeout))) {
    throw new EscrowError(
      'malformed',
      `connect-timeout-ms ${JSON.stringify(timeout)} isn't a number of at most 10 digits`,
    )
  }
  return {
    timeoutMs: timeout === undefined ? undefined : Number(timeout),
    trace: traceOfHeaders((name) => {
      const value = headers[name]
      return Array.isArray(value) ? value.join(',') : value
    }),
  }
}
