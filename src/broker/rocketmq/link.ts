/**
 * One client of RocketMQ 5's proxies, as a proxy sees it: a channel, a client id, and at most one telemetry stream by which the
 * proxy knows what the client publishes or reads.
 *
 * It speaks through the stubs that `rocketmq-client-nodejs` ships and not through its `Producer` and `SimpleConsumer`: those
 * wait for their start without a bound, resend three times in silence, send to the first queue alone, throw a stream's error
 * after its release where nobody listens, never replace a connection that has gone dumb, tell a proxy of new topics up to five
 * minutes late, know no certificate authority, log into the home folder, and send one message a call.
 *
 * | the channel  | what happens                                   | leaves by                                              |
 * |--------------|------------------------------------------------|--------------------------------------------------------|
 * | connecting   | calls that wait do, others fail as unreachable | connected; after pauses of 0.1-2 s again; `close`      |
 * | ready        | calls go out                                   | the connection breaks; `close`                         |
 * | dumb         | a call has ended without an answer to any      | a new channel takes its place, and the stream moves    |
 */
import { createHmac } from 'node:crypto'
import { isIPv4 } from 'node:net'
import { hostname } from 'node:os'
import {
  type CallOptions,
  type ChannelCredentials,
  type ClientUnaryCall,
  credentials as grpcCredentials,
  status as grpcStatus,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js'
import { UserAgent } from 'rocketmq-client-nodejs'
import type {
  ClientType,
  Resource,
  Settings,
  Status,
} from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import definition from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import stubs from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_grpc_pb.js'
import type {
  QueryRouteResponse,
  ReceiveMessageRequest,
  ReceiveMessageResponse,
  TelemetryCommand,
} from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import service from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import { EscrowError } from '../../core/errors.ts'
import { RocketmqTelemetry } from './telemetry.ts'

/** Where the proxies are, and as whom to come. */
export interface LinkOptions {
  /** `host:port`, or addresses of several proxies with commas. */
  readonly endpoints: string
  readonly credentials:
    | {
        readonly accessKey: string
        readonly accessSecret: string
        readonly securityToken?: string | undefined
      }
    | undefined
  readonly tls:
    | {
        readonly ca?: string | undefined
        readonly cert?: string | undefined
        readonly key?: string | undefined
      }
    | undefined
  readonly namespace: string
  readonly requestTimeoutMs: number
}

/** How one call is bounded. */
export interface CallBounds {
  /** Ends it at once, without an outcome. */
  readonly signal?: AbortSignal | undefined
  /** Default: the link's. */
  readonly timeoutMs?: number | undefined
  /** Waits for a connection where there is none. */
  readonly waits?: boolean | undefined
}

type Client = InstanceType<typeof stubs.MessagingServiceClient>
type Answer = { getStatus(): Status | undefined }
type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall

const CHANNEL_OPTIONS = {
  // A channel that replaces another one must get a connection of its own.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.enable_retries': 0,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2_000,
  // Of what a reader gets in one answer: 32 messages of 4 MiB, and their properties.
  'grpc.max_receive_message_length': 136 << 20,
}
const RENEW_MS_MIN = 1_000
const CONNECT_MS_MAX = 3_000
const { Code } = definition

let linksMade = 0

/** See the file's comment. */
export class RocketmqLink {
  /** As the proxies know it. */
  readonly clientId: string
  readonly #options: LinkOptions
  readonly #credentials: ChannelCredentials
  #client: Client
  #renewedAt = performance.now()
  #heardAt = 0
  #signed: { readonly second: string; readonly metadata: Metadata } | undefined
  #telemetry: RocketmqTelemetry | undefined
  #isClosed = false

  constructor(options: LinkOptions) {
    this.#options = options
    linksMade += 1
    this.clientId = `${hostname()}@${process.pid}@${linksMade}@${Date.now().toString(36)}`
    this.#credentials = credentialsOf(options)
    this.#client = this.#newClient()
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  #newClient(): Client {
    const { endpoints } = this.#options
    const target = endpoints.includes(',') ? `ipv4:${endpoints}` : endpoints
    return new stubs.MessagingServiceClient(target, this.#credentials, CHANNEL_OPTIONS)
  }

  // The channel doesn't tell why it can't connect.
  get #doubt(): string {
    return this.#options.tls === undefined ? '' : ', or its certificate is not trusted: see the option tls'
  }

  /** Waits until there is a connection, at most 3 s. Throws `brokerUnavailable`. */
  async ready(signal?: AbortSignal): Promise<void> {
    if (this.#isClosed) throw unavailable('it is closed')
    if (signal?.aborted === true) throw unavailable('no time was left')
    const client = this.#client
    await new Promise<void>((resolve, reject) => {
      const abort = () => reject(unavailable('it did not connect in time'))
      signal?.addEventListener('abort', abort, { once: true })
      client.waitForReady(Date.now() + CONNECT_MS_MAX, (error) => {
        signal?.removeEventListener('abort', abort)
        if (error === undefined) resolve()
        else reject(unavailable(`no proxy answers at ${this.#options.endpoints}${this.#doubt}`))
      })
    })
  }

  /** One call; resolves to whatever status the answer has. Rejects with gRPC's `ServiceError`. */
  async call<Request, Response extends Answer>(
    method: (client: Client) => Unary<Request, Response>,
    request: Request,
    { signal, timeoutMs = this.#options.requestTimeoutMs, waits = false }: CallBounds = {},
  ): Promise<Response> {
    const client = this.#client
    const from = performance.now()
    return await new Promise<Response>((resolve, reject) => {
      const options: Partial<CallOptions> = { deadline: Date.now() + timeoutMs }
      const abort = () => call.cancel()
      const call = method(client).call(client, request, this.#metadata(waits), options, (error, response) => {
        signal?.removeEventListener('abort', abort)
        if (error === null) {
          this.#heardAt = performance.now()
          resolve(response)
        } else {
          this.#suspect(client, error, from)
          reject(error)
        }
      })
      if (signal?.aborted === true) abort()
      else signal?.addEventListener('abort', abort, { once: true })
    })
  }

  /** Receives until the server ends the answer. Rejects with gRPC's `ServiceError`. */
  async receive(
    request: ReceiveMessageRequest,
    timeoutMs: number,
  ): Promise<readonly ReceiveMessageResponse[]> {
    const client = this.#client
    const from = performance.now()
    const stream = client.receiveMessage(request, this.#metadata(false), { deadline: Date.now() + timeoutMs })
    const all: ReceiveMessageResponse[] = []
    return await new Promise((resolve, reject) => {
      stream.on('data', (one: ReceiveMessageResponse) => {
        this.#heardAt = performance.now()
        all.push(one)
      })
      stream.on('error', (error) => {
        this.#suspect(client, error as ServiceError, from)
        reject(error)
      })
      stream.on('end', () => resolve(all))
    })
  }

  /** Keeps a telemetry stream with those settings, and tells its commands; one a link. */
  telemetry(settings: () => Settings, onCommand: (command: TelemetryCommand) => void): RocketmqTelemetry {
    this.#telemetry = new RocketmqTelemetry({
      open: () => this.#client.telemetry(this.#metadata(false)),
      settings: () => settings().setUserAgent(UserAgent.INSTANCE.toProtobuf()),
      onCommand: (command) => {
        this.#heardAt = performance.now()
        onCommand(command)
      },
      isForgotten: async () => {
        const told = settings()
        const request = new service.HeartbeatRequest().setClientType(told.getClientType() as ClientType)
        request.setGroup(told.getSubscription()?.getGroup())
        return statusOf(await this.call((client) => client.heartbeat, request)).code !== Code.OK
      },
    })
    return this.#telemetry
  }

  /** The queues of a topic, and which types of messages it takes. Throws as `register` of the port does. */
  async route(topic: string, signal?: AbortSignal): Promise<QueryRouteResponse> {
    await this.ready(signal)
    const request = new service.QueryRouteRequest()
      .setTopic(this.resource(topic))
      .setEndpoints(this.#access())
    const response = await this.call((client) => client.queryRoute, request, { signal }).catch((error) => {
      throw linkError(error)
    })
    checkStatus(response, topic)
    return response
  }

  resource(name: string): Resource {
    return new definition.Resource().setName(name).setResourceNamespace(this.#options.namespace)
  }

  #access() {
    const endpoints = new definition.Endpoints()
    for (const address of this.#options.endpoints.split(',')) {
      const [host = '', port] = address.split(':')
      const { IPV4, DOMAIN_NAME } = definition.AddressScheme
      endpoints.setScheme(isIPv4(host) ? IPV4 : DOMAIN_NAME)
      endpoints.addAddresses().setHost(host).setPort(Number(port))
    }
    return endpoints
  }

  /** Ends the stream and the channel; calls that are out end as cancelled or by their deadlines. May be repeated. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#telemetry?.close()
    this.#client.close()
  }

  // TCP tells nothing of a connection that was cut in silence: a call that ended unheard, and with it all others, is the sign.
  #suspect(client: Client, error: ServiceError, from: number): void {
    const isUnheard = error.code === grpcStatus.DEADLINE_EXCEEDED || error.code === grpcStatus.CANCELLED
    if (!isUnheard || this.#isClosed || client !== this.#client || this.#heardAt > from) return
    const now = performance.now()
    if (now - this.#renewedAt < RENEW_MS_MIN || now - from < RENEW_MS_MIN) return
    this.#renewedAt = now
    this.#client = this.#newClient()
    client.close()
    this.#telemetry?.reopen()
  }

  #metadata(waits: boolean): Metadata {
    const second = new Date().toISOString().replace(/[-:]|\.\d+/g, '')
    if (this.#signed?.second !== second) this.#signed = { second, metadata: this.#sign(second) }
    if (!waits) return this.#signed.metadata
    const waiting = this.#signed.metadata.clone()
    waiting.setOptions({ waitForReady: true })
    return waiting
  }

  #sign(second: string): Metadata {
    const { credentials, namespace } = this.#options
    const metadata = new Metadata()
    metadata.set('x-mq-protocol', 'v2')
    metadata.set('x-mq-client-id', this.clientId)
    metadata.set('x-mq-date-time', second)
    // The servers' list of languages has no name for Node.
    metadata.set('x-mq-language', 'HTTP')
    metadata.set('x-mq-client-version', UserAgent.INSTANCE.version)
    if (namespace !== '') metadata.set('x-mq-namespace', namespace)
    if (credentials === undefined) return metadata
    const { accessKey, accessSecret, securityToken } = credentials
    const signature = createHmac('sha1', accessSecret).update(second).digest('hex').toUpperCase()
    metadata.set(
      'authorization',
      `MQv2-HMAC-SHA1 Credential=${accessKey}, SignedHeaders=x-mq-date-time, Signature=${signature}`,
    )
    if (securityToken !== undefined) metadata.set('x-mq-session-token', securityToken)
    return metadata
  }
}

function credentialsOf({ tls }: LinkOptions): ChannelCredentials {
  if (tls === undefined) return grpcCredentials.createInsecure()
  const bytes = (pem: string | undefined) => (pem === undefined ? null : Buffer.from(pem))
  return grpcCredentials.createSsl(bytes(tls.ca), bytes(tls.key), bytes(tls.cert))
}

const unavailable = (why: string, cause?: unknown) =>
  new EscrowError('brokerUnavailable', `RocketMQ can't be asked: ${why}`, { cause })

/** What a failed call means to who asked for something. */
export function linkError(thrown: unknown): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const { code, details, message } = thrown as ServiceError
  if (code === grpcStatus.UNAUTHENTICATED || code === grpcStatus.PERMISSION_DENIED)
    return new EscrowError('brokerRefused', `RocketMQ refuses the credentials: ${details}`, { cause: thrown })
  return unavailable(details ?? message, thrown)
}

/** The code and the text of an answer. */
export function statusOf(answer: Answer): { readonly code: number; readonly message: string } {
  const status = answer.getStatus()
  return { code: status?.getCode() ?? Code.CODE_UNSPECIFIED, message: status?.getMessage() ?? 'no status' }
}

/** Throws what an answer about `topic` means where it is no success. */
export function checkStatus(answer: Answer, topic: string): void {
  const { code, message } = statusOf(answer)
  switch (code) {
    case Code.OK:
      return
    case Code.TOPIC_NOT_FOUND:
    case Code.NOT_FOUND:
      throw new EscrowError(
        'unknownDestination',
        `topic ${topic} is not there in RocketMQ: create it with mqadmin updateTopic -a +message.type=FIFO, or set missingTopics to 'create'`,
      )
    case Code.ILLEGAL_TOPIC:
      throw new EscrowError('unknownDestination', `topic ${topic} can't be one in RocketMQ: ${message}`)
    case Code.UNAUTHORIZED:
    case Code.FORBIDDEN:
    case Code.PAYMENT_REQUIRED:
      throw new EscrowError(
        'brokerRefused',
        `RocketMQ refuses topic ${topic} to these credentials: ${message}`,
      )
    default:
      throw unavailable(`topic ${topic}: ${message} (${code})`)
  }
}
