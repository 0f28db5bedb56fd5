/** The words in which decisions about half messages are asked for and given. */
import type { CheckBackResponse, DeliverResponse, FixedBody } from './api.ts'
import type { HalfMessage, TraceContext } from './envelope.ts'
import { EscrowError } from './errors.ts'
import type { MessageHead, MessageImage, SettledBy } from './message.ts'

/** What can be asked of a half message. `executionId` names what an operator means. */
export type MessageCommand =
  | { readonly type: 'prepareMessage'; readonly head: MessageHead }
  | { readonly type: 'commitMessage'; readonly by: SettledBy; readonly bodies: readonly FixedBody[] }
  | { readonly type: 'rollbackMessage'; readonly by: SettledBy; readonly reason: string }
  | { readonly type: 'requestCheckBack' }
  | { readonly type: 'checkBackDue' }
  | { readonly type: 'answerCheckBack'; readonly outcome: CheckBackResponse | UnusableCommit | NobodyAsked }
  | { readonly type: 'dispatchDelivery'; readonly index: number }
  | {
      readonly type: 'answerDelivery'
      readonly index: number
      readonly attempt: number
      readonly outcome: DeliverResponse | NobodyAsked
    }
  | {
      readonly type: 'retryExecution'
      readonly executionId: string
      readonly acceptPossibleDuplicate: boolean
    }
  | { readonly type: 'skipExecution'; readonly executionId: string }
  | { readonly type: 'compensateExecution'; readonly executionId: string }

/** The local transaction committed, as its checker says, with bodies over the limits: nobody could be sent them. */
export interface UnusableCommit {
  readonly resolution: 'unusableCommit'
  readonly error: string
}

/** Nobody was there: no attempt, and no check. */
export interface NobodyAsked {
  readonly outcome: 'noSession'
  readonly error: string
}

/** What is to leave once the next image is durable. */
export type MessageEffect =
  | { readonly type: 'Publication'; readonly index: number; readonly attempt: number }
  | { readonly type: 'CheckBack'; readonly attempt: number }

/** What a decision may know of the world, at the moment of deciding. */
export interface Moment {
  /** Wall clock, never going back within a log. */
  readonly wallMs: number
  /** Log time: stands still while nobody runs the log. */
  readonly logMs: number
  /** The place of this decision in the order of its log. */
  readonly order: number
  /** In [0, 1). */
  random(): number
  /** Who would take delivery `index` of this image now; undefined when nobody would, or its key is held back. */
  route(image: MessageImage, index: number): { readonly databaseId: string } | undefined
  /** Why the broker of a message would not take its size, as far as that is known here; undefined: it would. */
  tooLarge(message: HalfMessage, trace: TraceContext): EscrowError | undefined
}

/** What is to be done. No `next`: the image stays as it is. With `refused` nothing else is set. */
export interface Decision {
  readonly next?: MessageImage
  readonly effects: readonly MessageEffect[]
  readonly refused?: EscrowError
}

/** Nothing leaves. */
export const NO_EFFECTS: readonly MessageEffect[] = []
/** The image stays as it is, and nothing leaves. */
export const NOTHING: Decision = { effects: NO_EFFECTS }
const ERROR_CHARACTERS_MAX = 1_024

/** A refusal: nothing else is decided. */
export function refuse(code: EscrowError['code'], message: string): Decision {
  return { effects: [], refused: new EscrowError(code, message) }
}

/** What a participant says of an error, as much of it as is kept: each of a transaction's deliveries holds one. */
export const brief = (error: string): string =>
  error.length > ERROR_CHARACTERS_MAX ? `${error.slice(0, ERROR_CHARACTERS_MAX - 1)}…` : error
