/** Text that must not be shown: whoever needs it asks for it by name, and whatever prints it prints this. */
const REDACTED = '[redacted]'

/** A password, a key, or a URL that has one in it. */
export class Secret {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  /** The text itself. */
  reveal(): string {
    return this.#text
  }

  toString(): string {
    return REDACTED
  }

  toJSON(): string {
    return REDACTED
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return REDACTED
  }
}
