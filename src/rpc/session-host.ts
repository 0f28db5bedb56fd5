/**
 * The coordinator's end of one session.
 *
 * | state       | what it takes                                    | leaves by                                           |
 * |-------------|--------------------------------------------------|-----------------------------------------------------|
 * | greeting    | a hello, alone and first                         | the hello → registering; 10 s without one → closed  |
 * | registering | nothing: the names are being made durable        | durable → open, with a welcome; refused → closed    |
 * | open        | commands, answers, further names                 | `drain` → draining; the peer or an error → closed   |
 * | draining    | the same; after a pause, answers only, and commands are refused with `shuttingDown` | nothing under way any more, or its time is over → closed |
 * | closed      | nothing; its calls in flight ended as `unknown`  | for good                                            |
 *
 * What one session does wrong closes that session, and nothing else.
 */
import type { Operation, OperationRequest, Operations, Registration } from '../core/api.ts'
import { EscrowError, unreachable } from '../core/errors.ts'
import { mintedCounter } from '../core/ids.ts'
import type { OpenedSession } from '../engine/coordination.ts'
import type {
  CoordinatorItem,
  CoordinatorStream,
  HelloItem,
  ServiceItem,
  UnreadableCommandItem,
} from '../wire/items.ts'
import type { Participation } from './participants.ts'
import type { SessionHosts } from './session-hosts.ts'
import { checkHello, checkRegistration, countOf, type Greeting, NAMES_MAX } from './session-names.ts'

/** Waits that one session may have unanswered: they take no place in the window. */
export const WAITS_MAX = 10_000
/** Registrations that one session may have unanswered. */
export const REGISTRATIONS_MAX = 64

const TIMEOUT_MS = 30_000

type Command = Extract<ServiceItem, { type: 'command' }>
type Received = ServiceItem | UnreadableCommandItem

export class SessionHost {
  readonly #hosts: SessionHosts
  readonly #stream: CoordinatorStream
  #state: 'greeting' | 'registering' | 'open' | 'draining' | 'closed' = 'greeting'
  #greeting: Greeting | undefined
  #opened: OpenedSession | undefined
  #participation: Participation | undefined
  /** Of the ids that this session mints: every one from here on is new. */
  #nextCounter = 0
  #unanswered = 0
  #waits = 0
  #registrations = 0
  #names = 0
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

  /** Whether this is the very service that a later session goes on for. */
  belongsTo(greeting: Greeting): boolean {
    return this.#greeting?.namespace === greeting.namespace && this.#greeting.service === greeting.service
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
        return this.#participation?.calls.deliveryAnswered(item.callId, item.response)
      case 'checkBackAnswer':
        return this.#participation?.calls.checkBackAnswered(item.callId, item.response)
      case 'stepAnswer':
        return this.#participation?.calls.stepAnswered(item.callId, item.response)
      case 'register':
        return this.#register(item.number, item.registration)
      case 'hello':
        throw new EscrowError('malformed', 'a second hello')
      default:
        return unreachable(item)
    }
  }

  async #greet(hello: HelloItem): Promise<void> {
    const { coordination, participants, commandsMax } = this.#hosts.options
    const greeting = checkHello(hello)
    this.#greeting = greeting
    // The one that it goes on from ends first: nothing of it is taken, and nothing sent to it, beside this one.
    if (hello.previousSession !== '') this.#hosts.supersede(hello.previousSession, greeting)
    const { namespace, service, registration } = greeting
    await coordination.register(namespace, service, registration)
    if (this.#state !== 'registering') return
    this.#cancelTimer?.()
    const opened = coordination.openSession()
    this.#opened = opened
    this.#hosts.opened(this)
    this.#participation = participants.join(namespace, service, {
      deliveriesMax: greeting.deliveriesMax,
      checkBacksMax: greeting.checkBacksMax,
      stepsMax: greeting.stepsMax,
      send: (item) => this.#stream.send(item),
    })
    this.#state = 'open'
    this.#names = countOf(registration)
    this.#send({
      type: 'welcome',
      session: opened.session,
      commandsMax,
      routings: opened.routings,
      limits: coordination.limits,
    })
    // Only now: a call must not stand before the welcome.
    this.#participation.register(registration)
    if (this.#hosts.isDraining) this.drain()
  }

  #register(number: number, registration: Registration): void {
    const greeting = this.#greeting as Greeting
    const names = countOf(registration)
    const answer = (error: EscrowError | undefined): void => this.#send({ type: 'registered', number, error })
    try {
      checkRegistration(registration)
      if (this.#registrations >= REGISTRATIONS_MAX) {
        throw new EscrowError(
          'overloaded',
          `registrationsMax of ${REGISTRATIONS_MAX} unanswered registrations is reached`,
        )
      }
      if (this.#names + names > NAMES_MAX) {
        throw new EscrowError(
          'tooLarge',
          `a session with more than namesMax of ${NAMES_MAX} handlers, checkers and steps`,
        )
      }
    } catch (error) {
      return answer(EscrowError.from(error))
    }
    this.#registrations++
    this.#names += names
    this.#hosts.options.coordination.register(greeting.namespace, greeting.service, registration).then(
      () => {
        this.#registrations--
        if (this.#state === 'closed') return
        this.#participation?.register(registration)
        answer(undefined)
      },
      (error) => {
        this.#registrations--
        this.#names -= names
        answer(EscrowError.from(error))
      },
    )
  }

  #command(item: Command): void {
    const { commandId, op } = item
    const refusal = this.#refusalOf(item)
    if (refusal !== undefined) return this.#send({ type: 'failure', commandId, error: refusal })
    const { coordination, runtime } = this.#hosts.options
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
      coordination.request(item, reply, {
        deadlineMs: runtime.now() + (item.timeoutMs || TIMEOUT_MS),
        fresh: this.#isFresh(item),
      })
    } catch (error) {
      reply(EscrowError.from(error))
    }
  }

  #refusalOf(item: Command): EscrowError | undefined {
    if (this.#isRefusing) return new EscrowError('shuttingDown', 'this coordinator is stopping')
    const { commandsMax } = this.#hosts.options
    if (item.op === 'wait' ? this.#waits >= WAITS_MAX : this.#unanswered >= commandsMax) {
      const [bound, max] = item.op === 'wait' ? ['waitsMax', WAITS_MAX] : ['commandsMax', commandsMax]
      return new EscrowError('overloaded', `${bound} of ${max} unanswered commands is reached`)
    }
    const { namespace } = this.#greeting as Greeting
    // What was received is this side's own, and nobody else has seen it yet.
    const request = item.request as { namespace?: string | undefined }
    if (request.namespace === undefined || request.namespace === '') request.namespace = namespace
    else if (request.namespace !== namespace) {
      return new EscrowError(
        'invalidArgument',
        `namespace ${JSON.stringify(request.namespace.slice(0, 100))} is not the session's, ${namespace}`,
      )
    }
    return undefined
  }

  /** Nothing can be stored yet under an id that this very session mints next; whatever else comes is looked up. Hot. */
  #isFresh(item: OperationRequest): boolean {
    if ((item.op !== 'prepare' && item.op !== 'startSaga') || item.request.id === undefined) return false
    const counter = mintedCounter(item.request.id, this.session)
    if (counter === undefined || counter < this.#nextCounter) return false
    this.#nextCounter = counter + 1
    return true
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
      this.#participation?.pause()
      this.#setTimer(drainMsMax, () =>
        this.close(new EscrowError('shuttingDown', 'this coordinator is stopping')),
      )
      this.#endIfDone()
    })
  }

  // Waits are left: they have no answer yet, and are asked again elsewhere.
  #endIfDone(): void {
    if (!this.#isRefusing || this.#unanswered > 0 || (this.#participation?.calls.size ?? 0) > 0) return
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
    this.#participation?.leave()
    this.#hosts.closed(this)
  }
}
