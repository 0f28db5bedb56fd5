import { Client, type ClientUnaryCall, connectivityState, credentials, Metadata } from '@grpc/grpc-js'
import type { ListenerUrl } from '../core/listener-url.ts'
import { errorFromGrpc } from '../wire/errors.ts'
import { ANSWER_BYTES_MAX, type CallResult, type CallTransport, type OutgoingCall } from './call-transport.ts'
import { whenConnected } from './grpc-channel.ts'

const asIs = (bytes: Buffer): Buffer => bytes

/**
 * Calls over gRPC. A call is handed over only while the channel is connected, so that "nobody there" is told from "lost on
 * the way" by the channel's state: grpc-js says UNAVAILABLE to both.
 */
export class GrpcTransport implements CallTransport {
  readonly format = 'binary'
  readonly #client: Client
  readonly #now: () => number
  readonly #under = new Set<ClientUnaryCall>()
  #isClosed = false

  constructor({ host, port }: ListenerUrl, now: () => number) {
    this.#now = now
    this.#client = new Client(`${host}:${port}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': ANSWER_BYTES_MAX,
      'grpc.initial_reconnect_backoff_ms': 200,
      'grpc.max_reconnect_backoff_ms': 5_000,
      'grpc.keepalive_time_ms': 20_000,
      'grpc.keepalive_timeout_ms': 10_000,
      // Repeating is the engine's: a call that the library repeats by itself would be one attempt too many.
      'grpc.enable_retries': 0,
      // Two callers of one address are two listeners to us, each with its own end.
      'grpc.use_local_subchannel_pool': 1,
    })
  }

  send(call: OutgoingCall, end: (result: CallResult) => void): void {
    const deadlineMs = this.#now() + call.timeoutMs
    const channel = this.#client.getChannel()
    if (channel.getConnectivityState(true) === connectivityState.READY)
      return this.#send(call, deadlineMs, end)
    whenConnected(channel, deadlineMs, (isConnected) => {
      if (isConnected && !this.#isClosed) this.#send(call, deadlineMs, end)
      else end({ end: 'notSent', error: 'no connection to the participant' })
    })
  }

  #send(call: OutgoingCall, deadlineMs: number, end: (result: CallResult) => void): void {
    const metadata = new Metadata()
    for (const [name, value] of Object.entries(call.headers)) metadata.set(name, value)
    const body = Buffer.from(call.body as Uint8Array)
    const outgoing = this.#client.makeUnaryRequest(
      call.path,
      asIs,
      asIs,
      body,
      metadata,
      { deadline: deadlineMs },
      (error, answer) => {
        this.#under.delete(outgoing)
        if (error !== null) end({ end: 'unknown', error: errorFromGrpc(error).message })
        else end({ end: 'answer', body: answer ?? Buffer.alloc(0) })
      },
    )
    this.#under.add(outgoing)
  }

  close(): void {
    this.#isClosed = true
    for (const outgoing of this.#under) outgoing.cancel()
    this.#client.close()
  }
}
