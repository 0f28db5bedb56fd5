import type { OperationRequest } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { mintedCounter } from '../core/ids.ts'
import type { RequestOptions } from '../engine/coordination.ts'
import type { CoordinatorItem, HelloItem, RegisterItem } from '../wire/items.ts'
import type { Guest } from './guest.ts'
import type { Participation } from './participants.ts'
import type { SessionCalls } from './session-calls.ts'
import type { SessionHostsOptions } from './session-hosts.ts'
import { checkHello, checkRegistration, countOf, type Greeting, NAMES_MAX } from './session-names.ts'

/** Registrations that one session may have unanswered. */
const REGISTRATIONS_MAX = 64

/** A service: everything in its session is of its namespace, and its names are made durable before they are served. */
export class ServiceGuest implements Guest {
  readonly identity: string
  readonly commandsMax: number
  readonly mintsIds = true
  readonly #options: Pick<SessionHostsOptions, 'coordination' | 'participants'>
  readonly #greeting: Greeting
  #participation: Participation | undefined
  #session = ''
  /** Of the ids that this session mints: every one from here on is new. */
  #nextCounter = 0
  #registrations = 0
  #names = 0
  #hasLeft = false

  /** Throws what is wrong with the hello. */
  constructor(
    options: Pick<SessionHostsOptions, 'coordination' | 'participants'>,
    hello: HelloItem,
    commandsMax: number,
  ) {
    this.#options = options
    this.commandsMax = commandsMax
    this.#greeting = checkHello(hello)
    this.#names = countOf(hello.registration)
    this.identity = `service ${this.#greeting.namespace}/${this.#greeting.service}`
  }

  get calls(): SessionCalls | undefined {
    return this.#participation?.calls
  }

  admit(supersede: () => void): Promise<void> {
    // The one that it goes on from ends first: nothing of it is taken, and nothing sent to it, beside this one.
    supersede()
    const { namespace, service, registration } = this.#greeting
    return this.#options.coordination.register(namespace, service, registration)
  }

  join(session: string, send: (item: CoordinatorItem) => void): void {
    this.#session = session
    const { namespace, service, deliveriesMax, checkBacksMax, stepsMax } = this.#greeting
    const window = { deliveriesMax, checkBacksMax, stepsMax, send }
    this.#participation = this.#options.participants.join(namespace, service, window)
  }

  welcomed(): void {
    this.#participation?.register(this.#greeting.registration)
  }

  optionsOf(command: OperationRequest): Pick<RequestOptions, 'fresh'> {
    const { namespace } = this.#greeting
    // What was received is this side's own, and nobody else has seen it yet.
    const request = command.request as { namespace?: string | undefined }
    if (request.namespace === undefined || request.namespace === '') request.namespace = namespace
    else if (request.namespace !== namespace) {
      throw new EscrowError(
        'invalidArgument',
        `namespace ${JSON.stringify(request.namespace.slice(0, 100))} is not the session's, ${namespace}`,
      )
    }
    return { fresh: this.#isFresh(command) }
  }

  /** Nothing can be stored yet under an id that this very session mints next; whatever else comes is looked up. Hot. */
  #isFresh(item: OperationRequest): boolean {
    if ((item.op !== 'prepare' && item.op !== 'startSaga') || item.request.id === undefined) return false
    const counter = mintedCounter(item.request.id, this.#session)
    if (counter === undefined || counter < this.#nextCounter) return false
    this.#nextCounter = counter + 1
    return true
  }

  register({ registration }: RegisterItem, answer: (error: EscrowError | undefined) => void): void {
    const { namespace, service } = this.#greeting
    const names = countOf(registration)
    try {
      checkRegistration(registration, NAMES_MAX)
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
    this.#options.coordination.register(namespace, service, registration).then(
      () => {
        this.#registrations--
        if (this.#hasLeft) return
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

  noSession(): void {
    throw new EscrowError('malformed', 'only a node answers that nobody was asked')
  }

  pause(): void {
    this.#participation?.pause()
  }

  leave(): void {
    this.#hasLeft = true
    this.#participation?.leave()
  }
}
