/** The longest reason or error text that leaves this process; longer ones are cut. */
export const REASON_BYTES_MAX = 1024

/**
 * Thrown by a handler that will never take this message, whatever is tried: it is parked, and not sent again by itself.
 * Thrown by the action of a step: it did nothing and never will, and the saga goes on from there. Anything else that is
 * thrown means "not now".
 */
export class Refusal extends Error {
  override readonly name = 'Refusal'
  /** For programs; empty for none. */
  readonly code: string

  constructor(reason: string, code = '') {
    super(reason)
    this.code = code
  }
}

/**
 * Makes the refusal to throw: `throw refuse('no such article')`. At most 1,024 bytes of the reason are kept. `code` is a
 * word of up to 100 characters that a saga may tell refusals of its steps apart by.
 */
export function refuse(reason: string, code = ''): Refusal {
  return new Refusal(boundedText(reason), code)
}

/** Cuts a text to `REASON_BYTES_MAX` bytes of UTF-8, at a character. */
export function boundedText(text: string): string {
  const bytes = Buffer.from(text)
  if (bytes.length <= REASON_BYTES_MAX) return text
  let end = REASON_BYTES_MAX
  // A byte 10xxxxxx goes on with a character: the cut moves before its first byte.
  while (end > 0 && ((bytes[end] as number) & 0xc0) === 0x80) end--
  return bytes.toString('utf8', 0, end)
}

/** The text of anything that was thrown, bounded. */
export function thrownText(thrown: unknown): string {
  try {
    return boundedText(thrown instanceof Error ? thrown.message || thrown.name : String(thrown))
  } catch {
    return 'something that has no text was thrown'
  }
}
