/**
 * The stream by which a proxy knows a client: what it publishes or reads, and whom to ask how a transaction ended.
 *
 * | state     | stream | what happens                              | leaves by                                       |
 * |-----------|--------|-------------------------------------------|-------------------------------------------------|
 * | opening   | yes    | the settings are sent                     | the proxy's settings come → known; it ends      |
 * | known     | yes    | commands come; a heartbeat every 10 s     | it ends → waiting; `reopen` → opening           |
 * | waiting   | no     | a pause of 0.2-5 s                        | the pause's end → opening                       |
 * | closed    | no     |                                           |                                                 |
 */
import type { ClientDuplexStream } from '@grpc/grpc-js'
import type { Settings } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import type { TelemetryCommand } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import service from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import { type Backoff, boundMs } from '../../core/backoff.ts'

type Stream = ClientDuplexStream<TelemetryCommand, TelemetryCommand>

/** What a telemetry stream needs of its link. */
export interface TelemetryOptions {
  open(): Stream
  settings(): Settings
  /** Everything but settings. */
  onCommand(command: TelemetryCommand): void
  /** Sends a heartbeat; true when the proxy doesn't know this client any more. */
  isForgotten(): Promise<boolean>
}

const HEARTBEAT_MS = 10_000

const REOPEN: Backoff = { delayMs: 200, delayMsMax: 5_000 }

/** See the file's comment. */
export class RocketmqTelemetry {
  readonly #options: TelemetryOptions
  #stream: Stream | undefined
  #settings = Promise.withResolvers<Settings>()
  #isKnown = false
  #failures = 0
  #timer: NodeJS.Timeout | undefined
  readonly #heartbeat: NodeJS.Timeout
  #isClosed = false
  #error = 'no proxy has answered'

  constructor(options: TelemetryOptions) {
    this.#options = options
    // Nobody may be waiting.
    this.#settings.promise.catch(() => {})
    this.#heartbeat = setInterval(() => this.#beat(), HEARTBEAT_MS).unref()
    this.#open()
  }

  async #beat(): Promise<void> {
    const isForgotten = this.#isKnown && (await this.#options.isForgotten().catch(() => false))
    if (isForgotten) this.tell()
  }

  /** Why there is no stream, for people. */
  get error(): string {
    return this.#error
  }

  get isKnown(): boolean {
    return this.#isKnown
  }

  /** The settings as the proxy has completed them; waits for them while it isn't known. Rejects when it is closed. */
  settings(): Promise<Settings> {
    return this.#settings.promise
  }

  /** Tells the settings again: they have changed, or the proxy has forgotten them. */
  tell(): void {
    this.#stream?.write(new service.TelemetryCommand().setSettings(this.#options.settings()))
  }

  /** Leaves the stream for a new one. */
  reopen(): void {
    this.#drop()
    this.#open()
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearInterval(this.#heartbeat)
    this.#drop()
    this.#settings.reject(new Error('the telemetry stream is closed'))
  }

  #drop(): void {
    clearTimeout(this.#timer)
    const stream = this.#stream
    this.#stream = undefined
    if (this.#isKnown) {
      this.#isKnown = false
      this.#settings = Promise.withResolvers()
      this.#settings.promise.catch(() => {})
    }
    // Its listener for errors stays: what a stream says after its end must not be unhandled.
    stream?.cancel()
  }

  #open(): void {
    if (this.#isClosed) return
    const stream = this.#options.open()
    this.#stream = stream
    stream.on('data', (command: TelemetryCommand) => {
      if (this.#stream !== stream) return
      const settings = command.getSettings()
      if (settings === undefined) this.#options.onCommand(command)
      else this.#known(settings)
    })
    stream.on('error', (error) => this.#ended(stream, error.message))
    stream.on('end', () => this.#ended(stream, 'the proxy has ended it'))
    this.tell()
  }

  #known(settings: Settings): void {
    if (this.#isKnown) this.#settings = Promise.withResolvers()
    this.#isKnown = true
    this.#failures = 0
    this.#settings.resolve(settings)
  }

  #ended(stream: Stream, error: string): void {
    if (this.#stream !== stream) return
    this.#error = error
    this.#drop()
    if (this.#isClosed) return
    this.#failures += 1
    const pauseMs = boundMs(REOPEN, this.#failures) * (0.5 + Math.random() / 2)
    this.#timer = setTimeout(() => this.#open(), pauseMs).unref()
  }
}
