import type { OperationRequest } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { parseName, parseNamespace } from '../core/ids.ts'
import type { RequestOptions } from '../engine/coordination.ts'
import type { CoordinatorItem, HelloItem, NodeName, RegisterItem } from '../wire/items.ts'
import type { Guest } from './guest.ts'
import type { NodeParticipation } from './participants.ts'
import type { SessionCalls } from './session-calls.ts'
import type { SessionHostsOptions } from './session-hosts.ts'
import { checkRegistration, countOf, WINDOW_MAX } from './session-names.ts'

/** Commands that another node may have unanswered here: it sends them for all of its sessions. */
export const NODE_COMMANDS_MAX = 16_384
/** Names that the sessions of another node may serve, all together: what it tells of one service fits a frame. */
export const NODE_NAMES_MAX = 30_000

const NAME_LENGTH_MAX = 300
const FORWARDED = { fresh: false, isForwarded: true } as const

/** Who a node is: one that came back under its old name is another one. */
export const nodeIdentity = ({ node, incarnation }: NodeName): string => `node ${node} ${incarnation}`

/** Another node of this cluster: its commands were sent to it, and have a namespace each; it is called for its own sessions. */
export class NodeGuest implements Guest {
  readonly identity: string
  readonly commandsMax = NODE_COMMANDS_MAX
  readonly mintsIds = false
  readonly #options: Pick<SessionHostsOptions, 'coordination' | 'participants'>
  readonly #hello: HelloItem
  readonly #node: NodeName
  /** How many names it told of each service and database. */
  readonly #counts = new Map<string, number>()
  #names = 0
  #participation: NodeParticipation | undefined

  /** Throws what is wrong with the hello. */
  constructor(
    options: Pick<SessionHostsOptions, 'coordination' | 'participants'>,
    hello: HelloItem,
    node: NodeName,
  ) {
    if (node.node.length > NAME_LENGTH_MAX || node.incarnation.length > NAME_LENGTH_MAX)
      throw new EscrowError(
        'invalidArgument',
        `node or incarnation is longer than ${NAME_LENGTH_MAX} characters`,
      )
    this.#options = options
    this.#hello = hello
    this.#node = node
    this.identity = nodeIdentity(node)
  }

  get calls(): SessionCalls | undefined {
    return this.#participation?.calls
  }

  async admit(supersede: () => void): Promise<void> {
    const { node, incarnation } = this.#node
    if (!(await this.#options.coordination.isNode({ node, incarnation }))) {
      throw new EscrowError('unauthorized', `${JSON.stringify(node)} is no node of this cluster`)
    }
    supersede()
  }

  join(_session: string, send: (item: CoordinatorItem) => void): void {
    const { deliveriesMax, checkBacksMax, stepsMax } = this.#hello
    this.#participation = this.#options.participants.joinNode({
      deliveriesMax: Math.min(deliveriesMax, WINDOW_MAX),
      checkBacksMax: Math.min(checkBacksMax, WINDOW_MAX),
      stepsMax: Math.min(stepsMax, WINDOW_MAX),
      send,
    })
  }

  welcomed(): void {}

  optionsOf(_command: OperationRequest): Pick<RequestOptions, 'fresh' | 'isForwarded'> {
    return FORWARDED
  }

  register({ registration, owner }: RegisterItem, answer: (error: EscrowError | undefined) => void): void {
    try {
      if (owner === undefined) throw new EscrowError('invalidArgument', 'a node tells whose names these are')
      const namespace = parseNamespace(owner.namespace)
      const service = parseName('service', owner.service)
      checkRegistration(registration, NODE_NAMES_MAX)
      const key = `${namespace}/${service} ${registration.databaseId}`
      const count = countOf(registration)
      const names = this.#names - (this.#counts.get(key) ?? 0) + count
      if (names > NODE_NAMES_MAX)
        throw new EscrowError('tooLarge', `a node with more than nodeNamesMax of ${NODE_NAMES_MAX} names`)
      this.#names = names
      if (count === 0) this.#counts.delete(key)
      else this.#counts.set(key, count)
      this.#participation?.serve(namespace, service, registration)
    } catch (error) {
      return answer(EscrowError.from(error))
    }
    answer(undefined)
  }

  noSession(callId: number, error: string): void {
    this.calls?.noSession(callId, error)
  }

  pause(): void {
    this.#participation?.pause()
  }

  leave(): void {
    this.#participation?.leave()
  }
}
