/**
 * Either side of a session over gRPC: items in, frames out, and back.
 *
 * | state   | what it does                                                | leaves by                                          |
 * |---------|-------------------------------------------------------------|----------------------------------------------------|
 * | open    | items are encoded as they are sent, frames leave when they are long enough, and once a turn | `close`, the peer's end, a broken frame, an overrun |
 * | closed  | nothing is sent or received; `onClose` was told once        | for good                                           |
 *
 * What is received is read at once, always: a peer is slowed down by the windows of session.proto, never by a stream
 * that isn't read, or two sides that wait for each other could lock. What a peer doesn't read is kept up to a bound.
 */
import { Client, type ClientDuplexStream, credentials, type ServerDuplexStream } from '@grpc/grpc-js'
import { DEFAULT_LIMITS } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import { errorFromGrpc, errorToGrpc } from './errors.ts'
import {
  coordinatorCodec,
  type FrameCodec,
  type FrameDecoder,
  type FrameEncoder,
  serviceCodec,
} from './frame.ts'
import type { CoordinatorItem, CoordinatorStream, ItemStream, ServiceItem, ServiceStream } from './items.ts'
import { CONNECTION_OPTIONS, MESSAGE_BYTES_MAX, SESSION_PATH, SESSION_SERVICE } from './session-service.ts'

/** Bytes queued towards a peer that doesn't read: beyond, the stream is closed with `overloaded`. */
export const QUEUED_BYTES_MAX = 64 << 20
/** Beyond this a command is refused with `overloaded`, so that answers still find room. */
const COMMAND_QUEUED_BYTES_MAX = QUEUED_BYTES_MAX / 2
/** A frame as long as this leaves at once, so that the peer works on it while the next one is filled. */
const FRAME_BYTES_ENOUGH = 64 << 10
/** How long a peer may take to end its half of a stream that was closed in good order. */
const LINGER_MS = 2000

/** What a stream needs beside its call. */
export interface GrpcStreamOptions {
  /** Calls back once, after what this event-loop turn still brings. */
  readonly defer: (callback: () => void) => void
  /** Of one frame that is sent, in bytes. Default 3 MiB; a service takes it from its welcome. */
  readonly frameBytesMax?: number | undefined
  /** Of one frame that is received; a longer one closes the stream with `tooLarge`. Default: as gRPC allows, 4 MiB. */
  readonly receivedFrameBytesMax?: number | undefined
  /** Default 64 MiB; see `QUEUED_BYTES_MAX`. */
  readonly queuedBytesMax?: number | undefined
}

/** Opens a session's stream to `target` (`host:port`) on a connection of its own; what goes wrong is told by `onClose`. */
export function openGrpcStream(target: string, options: Partial<GrpcStreamOptions> = {}): ServiceStream {
  // A connection each: shared ones stay in grpc-js's backoff after an outage, on top of the session's own.
  const client = new Client(target, credentials.createInsecure(), {
    ...CONNECTION_OPTIONS,
    'grpc.use_local_subchannel_pool': 1,
  })
  const { requestSerialize, responseDeserialize } = SESSION_SERVICE.connect
  const call = client.makeBidiStreamRequest(SESSION_PATH, requestSerialize, responseDeserialize)
  return serviceStream(call, { defer: setImmediate, ...options }, () => client.close())
}

/** The service's side of a call; `onEnd` is told when the call is over on the network, too. */
export function serviceStream(
  call: ClientDuplexStream<Buffer, Buffer>,
  options: GrpcStreamOptions,
  onEnd: () => void = () => {},
): ServiceStream {
  const stream = new GrpcStream<ServiceItem, CoordinatorItem>(call, serviceCodec, options, () =>
    call.cancel(),
  )
  // What a coordinator takes is known from its welcome on, and nothing of size is sent before it.
  stream.inspect = ([item]) => {
    if (item?.type === 'welcome') stream.frameBytesMax = item.limits.frameBytesMax
  }
  // The status comes last, also after a cancel: then nothing is left on the network.
  call.on('status', () => {
    clearTimeout(linger)
    onEnd()
  })
  let linger: NodeJS.Timeout | undefined
  stream.whenClosed(() => {
    linger = setTimeout(() => call.cancel(), LINGER_MS).unref()
  })
  return stream
}

/** The coordinator's side of a call. */
export function coordinatorStream(
  call: ServerDuplexStream<Buffer, Buffer>,
  options: GrpcStreamOptions,
): CoordinatorStream {
  call.on('cancelled', () => stream.lost(new EscrowError('disconnected', 'the connection was lost')))
  const stream = new GrpcStream(call, coordinatorCodec, options, (error) => endWith(call, error))
  return stream
}

/** What grpc-js has behind a server's call, as far as it is needed here. */
interface CallBehind {
  readonly call?: { sendStatus?(status: ReturnType<typeof errorToGrpc>): void }
}

// grpc-js offers a server no way to end a call at once: `emit('error')` ends it after all that is queued, which a peer
// that doesn't read would keep in memory for as long as it stays.
function endWith(call: ServerDuplexStream<Buffer, Buffer>, error: EscrowError): void {
  const status = errorToGrpc(error)
  const behind = (call as unknown as CallBehind).call
  if (behind?.sendStatus === undefined) {
    call.emit('error', Object.assign(new Error(status.details), status))
    return
  }
  call.destroy()
  behind.sendStatus(status)
}

type Call = ClientDuplexStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>

class GrpcStream<Sent extends ServiceItem | CoordinatorItem, Received> implements ItemStream<Sent, Received> {
  readonly #call: Call
  readonly #encoder: FrameEncoder<Sent>
  readonly #decoder: FrameDecoder<Received>
  readonly #defer: (callback: () => void) => void
  readonly #queuedBytesMax: number
  readonly #receivedFrameBytesMax: number
  readonly #tearDown: (error: EscrowError) => void
  readonly #onClosed: ((error: EscrowError | undefined) => void)[] = []
  /** Sees what is received before anybody else. */
  inspect: ((items: readonly Received[]) => void) | undefined
  #onItems: (items: readonly Received[]) => void = () => {}
  #queuedBytes = 0
  #isFlushDue = false
  #isClosed = false

  constructor(
    call: Call,
    codec: FrameCodec<Sent, Received>,
    options: GrpcStreamOptions,
    tearDown: (error: EscrowError) => void,
  ) {
    this.#call = call
    this.#defer = options.defer
    this.#queuedBytesMax = options.queuedBytesMax ?? QUEUED_BYTES_MAX
    this.#receivedFrameBytesMax = options.receivedFrameBytesMax ?? MESSAGE_BYTES_MAX
    this.#tearDown = tearDown
    this.#decoder = codec.decoder()
    this.#encoder = codec.encoder(options.frameBytesMax ?? DEFAULT_LIMITS.frameBytesMax, (frame) =>
      this.#write(frame),
    )
    call.on('data', (frame: Buffer) => this.#receive(frame))
    // A turn later: where a connection is cut, an end comes before the news of that.
    call.on('end', () => options.defer(() => this.close()))
    call.on('error', (error: Error) => this.lost(connectionError(error)))
  }

  set frameBytesMax(bytes: number) {
    this.#encoder.frameBytesMax = bytes
  }

  send(item: Sent): void {
    if (this.#isClosed) return
    if (item.type === 'command' && this.#queuedBytes > COMMAND_QUEUED_BYTES_MAX) {
      throw new EscrowError(
        'overloaded',
        `more than ${COMMAND_QUEUED_BYTES_MAX} bytes wait for a peer that doesn't read`,
      )
    }
    this.#encoder.append(item)
    if (this.#encoder.bytes >= FRAME_BYTES_ENOUGH) this.#encoder.flush()
    if (this.#isFlushDue) return
    this.#isFlushDue = true
    this.#defer(() => this.#flush())
  }

  close(error?: EscrowError): void {
    if (this.#isClosed) return
    if (error === undefined) this.#encoder.flush()
    // The flush itself may have closed it, as one byte too many.
    if (this.#isClosed) return
    this.lost(error)
    if (error === undefined) this.#call.end()
    else this.#tearDown(error)
  }

  onItems(callback: (items: readonly Received[]) => void): void {
    this.#onItems = callback
  }

  onClose(callback: (error: EscrowError | undefined) => void): void {
    this.#onClosed.push(callback)
  }

  /** Is told at once when the stream closes. */
  whenClosed(callback: () => void): void {
    this.#onClosed.unshift(callback)
  }

  /** The call is over. */
  lost(error: EscrowError | undefined): void {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const callback of this.#onClosed) this.#defer(() => callback(error))
  }

  #flush(): void {
    this.#isFlushDue = false
    if (!this.#isClosed) this.#encoder.flush()
  }

  #write(frame: Buffer): void {
    if (this.#isClosed) return
    this.#queuedBytes += frame.length
    if (this.#queuedBytes > this.#queuedBytesMax) {
      return this.close(
        new EscrowError('overloaded', `the peer left more than ${this.#queuedBytesMax} bytes unread`),
      )
    }
    this.#call.write(frame, () => {
      this.#queuedBytes -= frame.length
    })
  }

  #receive(frame: Buffer): void {
    if (this.#isClosed) return
    try {
      if (frame.length > this.#receivedFrameBytesMax)
        throw frameTooLarge(frame.length, this.#receivedFrameBytesMax)
      const items = this.#decoder.decode(frame)
      this.inspect?.(items)
      this.#onItems(items)
    } catch (error) {
      this.close(EscrowError.from(error))
    }
  }
}

function frameTooLarge(actual: number, max: number): EscrowError {
  return new EscrowError('tooLarge', `a frame of ${actual} bytes is over the limit frameBytesMax of ${max}`, {
    details: { limit: 'frameBytesMax', max: String(max), actual: String(actual) },
  })
}

/** The error that ended a call. One that doesn't come from a coordinator only tells that there is no connection. */
function connectionError(thrown: unknown): EscrowError {
  const error = errorFromGrpc(thrown)
  if (error.details.grpcStatus === undefined || error.family === 'refused') return error
  return new EscrowError('disconnected', error.message, { details: error.details, cause: error.cause })
}
