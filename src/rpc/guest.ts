/** The two kinds of who holds a session with this node: a service, and another node. See session-host.ts. */
import type { OperationRequest } from '../core/api.ts'
import type { EscrowError } from '../core/errors.ts'
import type { RequestOptions } from '../engine/coordination.ts'
import type { CoordinatorItem, RegisterItem } from '../wire/items.ts'
import type { SessionCalls } from './session-calls.ts'

/** Who holds a session. */
export interface Guest {
  /** Who it is: only from a session of the same one may another go on. */
  readonly identity: string
  /** Commands that it may have unanswered. */
  readonly commandsMax: number
  /** Whether its ids are its own, so that it is told where they had best belong. */
  readonly mintsIds: boolean
  /** Undefined before `join`. */
  readonly calls: SessionCalls | undefined
  /** Resolves once it may be welcomed. `supersede` ends the session that it goes on from: as soon as that is sure to be its own. */
  admit(supersede: () => void): Promise<void>
  /** Takes part under this session's id, from the welcome on: `welcomed` tells that it was sent. */
  join(session: string, send: (item: CoordinatorItem) => void): void
  welcomed(): void
  /** Tells how a command is to be taken. Throws what it is refused with. Hot. */
  optionsOf(command: OperationRequest): Pick<RequestOptions, 'fresh' | 'isForwarded'>
  /** Serves more names; `answer` is called once, and may be within the call. */
  register(item: RegisterItem, answer: (error: EscrowError | undefined) => void): void
  /** A call came back that nobody was asked. Throws `malformed` where that can't be. */
  noSession(callId: number, error: string): void
  /** Takes no new calls; answers still count. */
  pause(): void
  /** Its calls in flight end as `unknown`. */
  leave(): void
}
