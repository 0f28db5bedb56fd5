/**
 * The connection under a session: made again whenever it is lost.
 *
 * | state      | what it does                                     | leaves by                                              |
 * |------------|--------------------------------------------------|--------------------------------------------------------|
 * | connecting | a stream is open, the hello is sent              | welcome → open; closed, or silent too long → waiting   |
 * | open       | items go both ways                               | drain → draining; closed → waiting                     |
 * | draining   | answers still come, nothing new is sent          | `reconnect` → connecting; closed → waiting             |
 * | waiting    | exponential backoff with full jitter             | its time has passed → connecting                       |
 * | closed     | nothing                                          | for good                                               |
 */
import { fullJitterMs } from '../core/backoff.ts'
import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { CoordinatorItem, HelloItem, ServiceStream, WelcomeItem } from '../wire/items.ts'

/** Opens a stream to a coordinator; its end is told by the stream's `onClose`. May throw an `EscrowError`. */
export type OpenStream = () => ServiceStream

/** What a connection tells its listener, for logs. */
export type ConnectionState =
  | { readonly state: 'connecting'; readonly attempt: number }
  | { readonly state: 'open'; readonly session: string }
  | { readonly state: 'draining'; readonly session: string }
  | { readonly state: 'waiting'; readonly delayMs: number; readonly error: EscrowError | undefined }
  | { readonly state: 'closed' }

/** What a connection needs, and whom it tells. */
export interface ConnectionOptions {
  readonly open: OpenStream
  readonly runtime: Runtime
  /** How long a stream may take from its opening to the welcome. */
  readonly handshakeTimeoutMs: number
  /** The hello of the next stream. */
  hello(previousSession: string): HelloItem
  onWelcome(link: Link, welcome: WelcomeItem): void
  onItem(link: Link, item: CoordinatorItem): void
  /** After each batch of items. */
  onBatch(): void
  onDrain(link: Link): void
  /** The link that was open is gone. */
  onLost(): void
  onState(state: ConnectionState): void
  /** No welcome came; `error` tells why. Answer true to stop trying. */
  onFailure(error: EscrowError): boolean
}

/** One stream, from its opening to its end. */
export interface Link {
  readonly stream: ServiceStream
  alive: boolean
  session: string
}

const BACKOFF = { delayMs: 100, delayMsMax: 2000 }

/** Keeps one stream to a coordinator open, from `connect` to `close`. */
export class Connection {
  readonly #options: ConnectionOptions
  #link: Link | undefined
  #previousSession = ''
  #attempt = 0
  #cancelTimer: (() => void) | undefined
  #closed = false

  constructor(options: ConnectionOptions) {
    this.#options = options
  }

  /** Opens a stream, and goes on until it is closed. */
  connect(): void {
    if (this.#closed) return
    const { handshakeTimeoutMs } = this.#options
    this.#attempt++
    this.#options.onState({ state: 'connecting', attempt: this.#attempt })
    let link: Link
    try {
      link = { stream: this.#options.open(), alive: true, session: '' }
    } catch (error) {
      this.#retry(EscrowError.from(error))
      return
    }
    this.#link = link
    link.stream.onItems((items) => this.#receive(link, items))
    link.stream.onClose((error) => this.#lost(link, error))
    link.stream.send(this.#options.hello(this.#previousSession))
    this.#setTimer(handshakeTimeoutMs, () => {
      const error = new EscrowError('disconnected', `no welcome came within ${handshakeTimeoutMs} ms`)
      link.stream.close(error)
      this.#lost(link, error)
    })
  }

  #setTimer(delayMs: number, callback: () => void): void {
    this.#cancelTimer?.()
    this.#cancelTimer = this.#options.runtime.setTimer(callback, delayMs)
  }

  #receive(link: Link, items: readonly CoordinatorItem[]): void {
    if (!link.alive) return
    for (const item of items) {
      if (item.type === 'welcome') this.#welcome(link, item)
      else if (item.type === 'drain') this.#drain(link)
      else this.#options.onItem(link, item)
    }
    this.#options.onBatch()
  }

  #welcome(link: Link, welcome: WelcomeItem): void {
    if (link.session !== '') return
    this.#cancelTimer?.()
    this.#attempt = 0
    link.session = welcome.session
    this.#previousSession = welcome.session
    this.#options.onState({ state: 'open', session: welcome.session })
    this.#options.onWelcome(link, welcome)
  }

  #drain(link: Link): void {
    if (link !== this.#link) return
    this.#options.onState({ state: 'draining', session: link.session })
    this.#options.onDrain(link)
  }

  /** Leaves a link in good order and opens the next one. */
  reconnect(link: Link): void {
    if (!link.alive || link !== this.#link) return
    link.stream.close()
    this.#lost(link, undefined)
  }

  #lost(link: Link, error: EscrowError | undefined): void {
    if (!link.alive) return
    link.alive = false
    if (link !== this.#link) return
    this.#link = undefined
    this.#cancelTimer?.()
    const wasOpen = link.session !== ''
    if (wasOpen) this.#options.onLost()
    if (this.#closed) return
    if (wasOpen) this.#wait(error)
    else this.#retry(error ?? new EscrowError('disconnected', 'the connection was closed before the welcome'))
  }

  #retry(error: EscrowError): void {
    if (this.#options.onFailure(error)) this.close()
    else this.#wait(error)
  }

  #wait(error: EscrowError | undefined): void {
    if (this.#closed) return
    const delayMs = fullJitterMs(BACKOFF, Math.max(1, this.#attempt), this.#options.runtime.random())
    this.#options.onState({ state: 'waiting', delayMs, error })
    this.#setTimer(delayMs, () => this.connect())
  }

  /** Ends it for good, the stream in good order. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#cancelTimer?.()
    const link = this.#link
    if (link !== undefined) {
      link.stream.close()
      this.#lost(link, undefined)
    }
    this.#options.onState({ state: 'closed' })
  }
}
