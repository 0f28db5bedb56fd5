import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

export interface FaultProxyOptions {
  /** Where connections go. A function is asked anew for each connection, for a server whose port changes. */
  readonly target: Endpoint | (() => Endpoint)
}

export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** What crosses the proxy: `up` from client to server, `down` from server to client. */
export type Direction = 'up' | 'down'

/**
 * A TCP proxy on 127.0.0.1 whose address outlives its target.
 *
 *   state      bytes            new connections   leaves by
 *   healthy    pass             reach the target  latency, blackhole, reset, cutAfter
 *   latency    pass, late       reach it, late    heal, latency(0)
 *   blackhole  held, both ways  are held          heal (held bytes then pass, none is lost), reset
 *   cut        pass until the budget is spent, then both sides are reset, and it is healthy again
 */
export interface FaultProxy {
  readonly host: string
  readonly port: number
  /** Replaces host and port in a URL by the proxy's. */
  through(url: string): string
  /** Delays each chunk of bytes, in each direction, by this many milliseconds; order is kept. */
  latency(ms: number): void
  /** Nothing passes and nothing is refused, as when a cable is cut. */
  blackhole(): void
  /** Ends latency, blackhole and a cut that hasn't happened. */
  heal(): void
  /** Resets (RST) every connection that exists. New ones pass as before. */
  reset(): void
  /**
   * Lets exactly this many more bytes pass in one direction, over all connections together; then nothing passes
   * in either, and every connection is reset. Resolves when that has happened. `cutAfter(n, 'up')` delivers a
   * request and loses its reply; `cutAfter(n, 'down')` breaks a reply off.
   */
  cutAfter(bytes: number, direction?: Direction): Promise<void>
  /** Bytes that have left the proxy in this direction since it started. */
  passed(direction: Direction): number
  close(): Promise<void>
}

/** Starts a proxy on a free port of 127.0.0.1. */
export async function startFaultProxy(options: FaultProxyOptions): Promise<FaultProxy> {
  const proxy = new TcpProxy(options.target)
  await proxy.listen()
  return proxy
}

const heldBytesMax = 1_048_576
const resetDelayMs = 20

interface Cut {
  readonly direction: Direction
  bytesLeft: number
  done(): void
}

interface Held {
  readonly bytes: Buffer | 'end'
  readonly dueAt: number
}

class TcpProxy implements FaultProxy {
  readonly host = '127.0.0.1'
  port = 0
  delayMs = 0
  isBlackhole = false
  readonly lanes: Set<Lane> = new Set()
  readonly #target: FaultProxyOptions['target']
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #passed = { up: 0, down: 0 }
  #cut: Cut | undefined

  constructor(target: FaultProxyOptions['target']) {
    this.#target = target
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#accept(client))
  }

  async listen(): Promise<void> {
    this.#server.listen(0, this.host)
    await once(this.#server, 'listening')
    this.port = (this.#server.address() as AddressInfo).port
    this.#server.unref()
  }

  #accept(client: Socket): void {
    const target = typeof this.#target === 'function' ? this.#target() : this.#target
    const server = connect({ ...target, allowHalfOpen: true, noDelay: true })
    for (const [socket, peer] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(socket)
      // Whatever ends one side abruptly ends the other the same way: the client must not see a clean close.
      socket.once('error', () => peer.resetAndDestroy())
      socket.once('close', () => {
        this.#sockets.delete(socket)
        if (!peer.destroyed && !socket.readableEnded) peer.resetAndDestroy()
      })
    }
    new Lane(this, 'up', client, server)
    new Lane(this, 'down', server, client)
  }

  /** Writes what a cut allows of these bytes. After the cut's last byte nothing passes: a reset follows. */
  pass(direction: Direction, bytes: Buffer, to: Socket): void {
    if (this.#cut?.bytesLeft === 0) return
    const cut = this.#cut?.direction === direction ? this.#cut : undefined
    const allowed = Math.min(bytes.length, cut?.bytesLeft ?? bytes.length)
    this.#passed[direction] += allowed
    if (cut !== undefined) cut.bytesLeft -= allowed
    // A reset may throw away what the receiver hasn't read yet, so it comes a moment after the last byte.
    const last = cut?.bytesLeft === 0 ? () => setTimeout(() => this.#finishCut(cut), resetDelayMs) : undefined
    to.write(bytes.subarray(0, allowed), last)
  }

  #finishCut(cut: Cut): void {
    if (this.#cut !== cut) return
    this.#cut = undefined
    this.reset()
    cut.done()
  }

  through(url: string): string {
    const changed = new URL(url)
    changed.hostname = this.host
    changed.port = String(this.port)
    return changed.href
  }

  latency(ms: number): void {
    this.delayMs = ms
    this.#flush()
  }

  blackhole(): void {
    this.isBlackhole = true
  }

  heal(): void {
    this.isBlackhole = false
    this.delayMs = 0
    this.#cut?.done()
    this.#cut = undefined
    this.#flush()
  }

  #flush(): void {
    for (const lane of this.lanes) lane.flush()
  }

  reset(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }

  cutAfter(bytes: number, direction: Direction = 'down'): Promise<void> {
    if (this.#cut !== undefined) throw new Error('a cut is already waiting')
    return new Promise((done) => {
      const cut = { direction, bytesLeft: bytes, done }
      this.#cut = cut
      if (bytes === 0) this.#finishCut(cut)
    })
  }

  passed(direction: Direction): number {
    return this.#passed[direction]
  }

  async close(): Promise<void> {
    this.reset()
    if (!this.#server.listening) return
    const closed = once(this.#server, 'close')
    this.#server.close()
    await closed
  }
}

/** One direction of one connection: a queue of bytes in order, each with the time before which it stays. */
class Lane {
  readonly #proxy: TcpProxy
  readonly #direction: Direction
  readonly #from: Socket
  readonly #to: Socket
  readonly #held: Held[] = []
  #heldBytes = 0
  #timer: NodeJS.Timeout | undefined

  constructor(proxy: TcpProxy, direction: Direction, from: Socket, to: Socket) {
    this.#proxy = proxy
    this.#direction = direction
    this.#from = from
    this.#to = to
    proxy.lanes.add(this)
    from.on('data', (bytes) => this.#hold(bytes))
    from.once('end', () => this.#hold('end'))
    to.on('drain', () => this.flush())
    to.once('close', () => {
      clearTimeout(this.#timer)
      proxy.lanes.delete(this)
    })
  }

  #hold(bytes: Buffer | 'end'): void {
    this.#held.push({ bytes, dueAt: performance.now() + this.#proxy.delayMs })
    this.#heldBytes += bytes.length
    this.flush()
  }

  /** Passes on what is due. A sender whose bytes stay here for long is stopped by TCP, as on a real network. */
  flush(): void {
    clearTimeout(this.#timer)
    while (!this.#proxy.isBlackhole && this.#held.length > 0) {
      const { bytes, dueAt } = this.#held[0]!
      const waitMs = this.#proxy.delayMs === 0 ? 0 : dueAt - performance.now()
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.flush(), Math.ceil(waitMs))
        break
      }
      this.#held.shift()
      this.#heldBytes -= bytes.length
      if (bytes === 'end') this.#to.end()
      else this.#proxy.pass(this.#direction, bytes, this.#to)
    }
    if (this.#heldBytes + this.#to.writableLength > heldBytesMax) this.#from.pause()
    else this.#from.resume()
  }
}
