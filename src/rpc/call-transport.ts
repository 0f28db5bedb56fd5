/** The line between what a call to a participant is and how it travels: see `callers.ts`. */

/** One call, as a transport carries it. */
export interface OutgoingCall {
  /** `/escrow.v1.ParticipantService/Deliver`. */
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly timeoutMs: number
  /** The request, in the form that the transport speaks. */
  readonly body: Uint8Array | string
}

/** How a call ended: nothing was sent, nobody knows, or there is an answer to be read. */
export type CallResult =
  | { readonly end: 'notSent'; readonly error: string }
  | { readonly end: 'unknown'; readonly error: string }
  | { readonly end: 'answer'; readonly body: Buffer }

/** Carries calls to one listener. */
export interface CallTransport {
  readonly format: 'json' | 'binary'
  /** Calls back exactly once, later, within about `timeoutMs`. */
  send(call: OutgoingCall, end: (result: CallResult) => void): void
  /** Ends what is under way as `unknown`, and every connection. */
  close(): void
}

/** The longest answer that is read: a transaction whose bodies are all fixed at its commit, in base64. */
export const ANSWER_BYTES_MAX = 6 << 20
