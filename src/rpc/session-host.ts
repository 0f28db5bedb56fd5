/**
 * The coordinator's end of one session.
 *
 * | state       | what it takes                                    | leaves by                                           |
 * |-------------|--------------------------------------------------|-----------------------------------------------------|
 * | greeting    | a hello, alone and first                         | the hello → registering; 10 s without one → closed  |
 * | registering | nothing: its names are being made durable, or a node is being looked up | done → open, with a welcome; refused → closed |
 * | open        | commands, answers, further names                 | `drain` → draining; the peer or an error → closed   |
 * | draining    | the same; after a pause, answers only, and commands are refused with `shuttingDown` | nothing under way any more, or its time is over → closed |
 * | closed      | nothing; its calls in flight ended as `unknown`  | for good                                            |
 *
 * What one session does wrong closes that session, and nothing else.
 */
import type { Operation, Operations } from '../core/api.ts'
import { EscrowError, unreachable } from '../core/errors.ts'
import type { OpenedSession, RequestOptions } from '../engine/coordination.ts'
import type {
  CoordinatorItem,
  CoordinatorStream,
  HelloItem,
  RegisterItem,
  ServiceItem,
  UnreadableCommandItem,
} from '../wire/items.ts'
import type { Guest } from './guest.ts'
import { NodeGuest } from './node-guest.ts'
import { ServiceGuest } from './service-guest.ts'
import type { SessionHosts } from './session-hosts.ts'

/** Waits that one session may have unanswered: they take no place in the window. */
export const WAITS_MAX = 10_000
const TIMEOUT_MS = 30_000

type Command = Extract<ServiceItem, { type: 'command' }>
type Received = ServiceItem | UnreadableCommandItem

export class SessionHost {
  readonly #hosts: SessionHosts
  readonly #stream: CoordinatorStream
  #state: 'greeting' | 'registering' | 'open' | 'draining' | 'closed' = 'greeting'
  #guest: Guest | undefined
  #opened: OpenedSession | undefined
  #unanswered = 0
  #waits = 0
  #isRefusing = false
  #cancelTimer: (() => void) | undefined

  constructor(hosts: SessionHosts, stream: CoordinatorStream) {
    this.#hosts = hosts
    this.#stream = stream
    stream.onItems((items) => this.#receive(items))
    stream.onClose(() => this.#closed())
    const { helloTimeoutMs } = hosts.options
    this.#setTimer(helloTimeoutMs, () =>
      this.close(
        this.#state === 'greeting'
          ? new EscrowError('malformed', `no hello came within ${helloTimeoutMs} ms`)
          : new EscrowError('storeUnavailable', `the names were not durable within ${helloTimeoutMs} ms`),
      ),
    )
  }

  /** Empty before the welcome. */
  get session(): string {
    return this.#opened?.session ?? ''
  }

  /** Who holds it; empty before the hello. */
  get identity(): string {
    return this.#guest?.identity ?? ''
  }

  #setTimer(delayMs: number, callback: () => void): void {
    this.#cancelTimer?.()
    this.#cancelTimer = this.#hosts.options.runtime.setTimer(callback, delayMs)
  }

  #receive(items: readonly Received[]): void {
    try {
      for (const item of items) this.#take(item)
    } catch (error) {
      this.close(EscrowError.from(error))
    }
  }

  #take(item: Received): void {
    if (this.#state === 'closed') return
    if (this.#state === 'greeting') {
      if (item.type !== 'hello')
        throw new EscrowError('malformed', `a session begins with a hello, not with ${item.type}`)
      this.#state = 'registering'
      this.#greet(item).catch((error) => this.close(EscrowError.from(error)))
      return
    }
    if (this.#state === 'registering')
      throw new EscrowError('malformed', `${item.type} came before the welcome`)
    switch (item.type) {
      case 'command':
        return this.#command(item)
      case 'unreadableCommand':
        return this.#send({ type: 'failure', commandId: item.commandId, error: item.error })
      case 'deliveryAnswer':
        return this.#guest?.calls?.deliveryAnswered(item.callId, item.response)
      case 'checkBackAnswer':
        return this.#guest?.calls?.checkBackAnswered(item.callId, item.response)
      case 'stepAnswer':
        return this.#guest?.calls?.stepAnswered(item.callId, item.response)
      case 'noSession':
        return this.#guest?.noSession(item.callId, item.error)
      case 'register':
        return this.#register(item)
      case 'hello':
        throw new EscrowError('malformed', 'a second hello')
      default:
        return unreachable(item)
    }
  }

  async #greet(hello: HelloItem): Promise<void> {
    const { options } = this.#hosts
    const guest =
      hello.node === undefined
        ? new ServiceGuest(options, hello, options.commandsMax)
        : new NodeGuest(options, hello, hello.node)
    this.#guest = guest
    await guest.admit(() => {
      if (hello.previousSession !== '') this.#hosts.supersede(hello.previousSession, guest.identity)
    })
    if (this.#state !== 'registering') return
    this.#cancelTimer?.()
    const { coordination } = options
    const opened = coordination.openSession()
    this.#opened = opened
    this.#hosts.opened(this)
    guest.join(opened.session, (item) => this.#stream.send(item))
    this.#state = 'open'
    this.#send({
      type: 'welcome',
      session: opened.session,
      commandsMax: guest.commandsMax,
      routings: opened.routings,
      limits: coordination.limits,
    })
    // Only now: a call must not stand before the welcome.
    guest.welcomed()
    if (this.#hosts.isDraining) this.drain()
  }

  #register(item: RegisterItem): void {
    const { number } = item
    this.#guest?.register(item, (error) => this.#send({ type: 'registered', number, error }))
  }

  /** Other routing parts than before are best. */
  reroute(routings: readonly string[]): void {
    if (this.#state === 'open' && this.#guest?.mintsIds === true) this.#send({ type: 'routings', routings })
  }

  #command(item: Command): void {
    const { commandId, op } = item
    const { coordination, runtime } = this.#hosts.options
    let options: Pick<RequestOptions, 'fresh' | 'isForwarded'>
    try {
      options = this.#admit(item)
    } catch (error) {
      return this.#send({ type: 'failure', commandId, error: EscrowError.from(error) })
    }
    if (op === 'wait') this.#waits++
    else this.#unanswered++
    let isAnswered = false
    const reply = (error: EscrowError | undefined, response?: Operations[Operation]['response']): void => {
      if (isAnswered) return
      isAnswered = true
      if (op === 'wait') this.#waits--
      else this.#unanswered--
      this.#reply(commandId, op, error, response)
    }
    try {
      const deadlineMs = runtime.now() + (item.timeoutMs || TIMEOUT_MS)
      const { fresh, isForwarded } = options
      coordination.request(item, reply, { deadlineMs, fresh, isForwarded })
    } catch (error) {
      reply(EscrowError.from(error))
    }
  }

  /** Tells how a command is to be taken. Throws what it is refused with. */
  #admit(item: Command): Pick<RequestOptions, 'fresh' | 'isForwarded'> {
    if (this.#isRefusing) throw new EscrowError('shuttingDown', 'this coordinator is stopping')
    const guest = this.#guest as Guest
    const { commandsMax } = guest
    if (item.op === 'wait' ? this.#waits >= WAITS_MAX : this.#unanswered >= commandsMax) {
      const [bound, max] = item.op === 'wait' ? ['waitsMax', WAITS_MAX] : ['commandsMax', commandsMax]
      throw new EscrowError('overloaded', `${bound} of ${max} unanswered commands is reached`)
    }
    return guest.optionsOf(item)
  }

  #reply(
    commandId: number,
    op: Operation,
    error: EscrowError | undefined,
    response: Operations[Operation]['response'] | undefined,
  ): void {
    if (this.#state === 'closed') return
    if (error !== undefined) this.#send({ type: 'failure', commandId, error })
    else {
      try {
        this.#stream.send({ type: 'reply', commandId, op, response } as CoordinatorItem)
      } catch (thrown) {
        // A page of a list can be longer than a frame.
        this.#send({ type: 'failure', commandId, error: EscrowError.from(thrown) })
      }
    }
    this.#endIfDone()
  }

  #send(item: CoordinatorItem): void {
    try {
      this.#stream.send(item)
    } catch (error) {
      this.close(EscrowError.from(error))
    }
  }

  /** Tells the service to go; see the table. */
  drain(): void {
    if (this.#state === 'greeting' || this.#state === 'registering') {
      return this.close(new EscrowError('shuttingDown', 'this coordinator is stopping'))
    }
    if (this.#state !== 'open') return
    this.#state = 'draining'
    this.#send({ type: 'drain' })
    const { drainGraceMs, drainMsMax } = this.#hosts.options
    this.#setTimer(drainGraceMs, () => {
      this.#isRefusing = true
      this.#guest?.pause()
      this.#setTimer(drainMsMax, () =>
        this.close(new EscrowError('shuttingDown', 'this coordinator is stopping')),
      )
      this.#endIfDone()
    })
  }

  // Waits are left: they have no answer yet, and are asked again elsewhere.
  #endIfDone(): void {
    if (!this.#isRefusing || this.#unanswered > 0 || (this.#guest?.calls?.size ?? 0) > 0) return
    this.close()
  }

  /** Called once in a while: answers to calls don't come by here. */
  look(): void {
    this.#endIfDone()
  }

  /** Ends the session: in good order, or torn down at once with an error. */
  close(error?: EscrowError): void {
    if (this.#state === 'closed') return
    this.#stream.close(error)
    this.#closed()
  }

  #closed(): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#cancelTimer?.()
    this.#guest?.leave()
    this.#hosts.closed(this)
  }
}
