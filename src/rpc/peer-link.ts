import type { OperationRequest } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { Destination } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { Reply, RequestOptions } from '../engine/coordination.ts'
import type { NoSession } from '../engine/outlet.ts'
import type { NodeInfo } from '../engine/peers.ts'
import { Connection, type Link, type OpenStream } from '../participant/connection.ts'
import { Requests } from '../participant/requests.ts'
import type { CallItem, CoordinatorItem, ServiceItem, WelcomeItem } from '../wire/items.ts'
import type { Participants } from './participants.ts'
import type { Offer } from './roster.ts'
import { WAITS_MAX } from './session-host.ts'

/** Calls of each class that another node may have unanswered here. */
export const NODE_CALLS_MAX = 4_096

const HANDSHAKE_TIMEOUT_MS = 5_000

/** What a link needs. */
export interface PeerLinkOptions {
  readonly self: NodeInfo
  readonly peer: NodeInfo
  readonly open: OpenStream
  readonly participants: Participants
  readonly runtime: Runtime
  log(level: 'info' | 'warn', message: string): void
}

/**
 * This node as a client of another one: the commands that the other one owns go out, and its calls for the sessions that
 * are here come in. The stream is made again whenever it is lost; what it left unanswered isn't sent again, for that is
 * the affair of whoever asked.
 */
export class PeerLink {
  readonly peer: NodeInfo
  readonly #options: PeerLinkOptions
  readonly #connection: Connection
  #link: Link | undefined
  /** Of the link that is open. */
  #requests: Requests | undefined
  #window = 0
  #waits = 0
  #registrations = 0
  #isKnownLost = false

  constructor(options: PeerLinkOptions) {
    const { self, peer, open, runtime } = options
    this.peer = peer
    this.#options = options
    this.#connection = new Connection({
      open,
      runtime,
      handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS,
      hello: (previousSession) => ({
        type: 'hello',
        node: { node: self.node, incarnation: self.incarnation },
        namespace: '',
        service: '',
        deliveriesMax: NODE_CALLS_MAX,
        checkBacksMax: NODE_CALLS_MAX,
        stepsMax: NODE_CALLS_MAX,
        previousSession,
        registration: { checkers: [], handlers: [], databaseId: '' },
      }),
      onWelcome: (link, welcome) => this.#welcomed(link, welcome),
      onItem: (link, item) => this.#take(link, item),
      onBatch: () => {},
      // What it still owns it still takes, until it refuses; it ends the stream itself once all is answered.
      onDrain: () => {},
      onLost: () => this.#lost(),
      onState: (state) => {
        if (state.state === 'waiting') this.#tellLost(state.error)
      },
      onFailure: () => false,
    })
    this.#connection.connect()
  }

  #welcomed(link: Link, welcome: WelcomeItem): void {
    this.#isKnownLost = false
    this.#options.log('info', `linked to node ${this.peer.node}`)
    this.#link = link
    this.#window = welcome.commandsMax
    const requests = new Requests(this.#options.runtime, { isForwarding: true })
    // The window is kept to before anything is submitted, so that nothing waits here.
    requests.connected({ window: Number.POSITIVE_INFINITY, send: link.stream.send.bind(link.stream) })
    this.#requests = requests
    for (const offer of this.#options.participants.roster.offers) this.offer(offer)
  }

  #lost(): void {
    const error = notOwner(`the link to node ${this.peer.node} is lost`)
    this.#requests?.close(error, 0)
    this.#requests = undefined
    this.#link = undefined
  }

  #tellLost(error: EscrowError | undefined): void {
    if (this.#isKnownLost) return
    this.#isKnownLost = true
    // One that starts or stops says so itself: nothing to see to.
    const isExpected =
      error === undefined || (error.family === 'unavailable' && error.code !== 'disconnected')
    const message = `no link to node ${this.peer.node}: ${error?.message ?? 'it ended'}`
    this.#options.log(isExpected ? 'info' : 'warn', message)
  }

  /** See `Peers.forward`. */
  forward(operation: OperationRequest, reply: Reply, { deadlineMs }: RequestOptions): void {
    const requests = this.#requests
    if (requests === undefined) return later(reply, notOwner(`there is no link to node ${this.peer.node}`))
    const isWait = operation.op === 'wait'
    const [taken, max] = isWait ? [this.#waits, WAITS_MAX] : [requests.inWindow, this.#window]
    if (taken >= max) {
      const error = `${max} commands to node ${this.peer.node} are unanswered, its limit`
      return later(reply, new EscrowError('overloaded', error))
    }
    const timeoutMs = Math.floor(deadlineMs - this.#options.runtime.now())
    if (timeoutMs < 1) return later(reply, new EscrowError('deadlineExceeded', 'its time had passed'))
    if (isWait) this.#waits++
    const answered: Reply = (error, response) => {
      if (isWait) this.#waits--
      reply(error, response)
    }
    requests.submit(operation.op, operation.request as never, { timeoutMs }).then(
      (response) => answered(undefined, response),
      (error: unknown) => answered(answerOf(EscrowError.from(error))),
    )
  }

  /** Tells what this node's sessions serve. */
  offer({ namespace, service, registration }: Offer): void {
    const owner = { namespace, service }
    this.#registrations++
    this.#send(this.#link, { type: 'register', number: this.#registrations, registration, owner })
  }

  #take(link: Link, item: CoordinatorItem): void {
    switch (item.type) {
      case 'reply':
        return this.#requests?.answered(item.commandId, item.response)
      case 'failure':
        return this.#requests?.failed(item.commandId, item.error)
      case 'registered':
        if (item.error !== undefined) this.#warn(`does not take what is served here`, item.error)
        return
      case 'delivery':
      case 'checkBack':
      case 'step':
        return this.#call(link, item)
      default:
      // The connection has seen the welcome and the drain itself; ids aren't minted here.
    }
  }

  /** A call goes to the sessions that are here, and no further. */
  #call(link: Link, item: CallItem): void {
    const { participants } = this.#options
    const { callId, databaseId = '' } = item
    const back = (outcome: NoSession): void =>
      this.#send(link, { type: 'noSession', callId, error: outcome.error })
    switch (item.type) {
      case 'delivery': {
        const destination = `${item.request.service}/${item.request.handler}` as Destination
        const done: Parameters<Participants['deliver']>[3] = (outcome) => {
          if (isNoSession(outcome)) back(outcome)
          else this.#send(link, { type: 'deliveryAnswer', callId, response: outcome })
        }
        return participants.deliver(destination, item.request, databaseId, done, true)
      }
      case 'checkBack': {
        const done: Parameters<Participants['checkBack']>[2] = (outcome) => {
          if ('outcome' in outcome) back(outcome)
          else this.#send(link, { type: 'checkBackAnswer', callId, response: outcome })
        }
        return participants.checkBack(item.request, databaseId, done, true)
      }
      default: {
        const done: Parameters<Participants['step']>[2] = (outcome) => {
          if (isNoSession(outcome)) back(outcome)
          else this.#send(link, { type: 'stepAnswer', callId, response: outcome })
        }
        return participants.step(item.request, databaseId, done, true)
      }
    }
  }

  // An answer belongs to the stream that its call came on. One that fits no frame isn't sent: whoever called takes it as
  // unknown when its time is over.
  #send(link: Link | undefined, item: ServiceItem): void {
    if (link?.alive !== true) return
    try {
      link.stream.send(item)
    } catch (error) {
      this.#warn(`can't be sent ${item.type}`, EscrowError.from(error))
    }
  }

  #warn(what: string, error: EscrowError): void {
    this.#options.log('warn', `node ${this.peer.node} ${what}: ${error.message}`)
  }

  /** Ends it for good. */
  close(): void {
    this.#connection.close()
  }
}

const isNoSession = (outcome: { readonly outcome: string; readonly error: string }): outcome is NoSession =>
  outcome.outcome === 'noSession'

const notOwner = (why: string): EscrowError => new EscrowError('notOwner', why)

/** Not done by a node that stops, is not done: another one will own it. */
const answerOf = (error: EscrowError): EscrowError =>
  error.code === 'shuttingDown' ? notOwner(error.message) : error

const later = (reply: Reply, error: EscrowError): void => queueMicrotask(() => reply(error))
