import { EscrowError } from './errors.ts'

/** The URL of a database: prints without its password, wherever it is printed. */
export class PostgresUrl {
  readonly #url: URL

  /** `postgres://user:password@host:port/database?sslmode=…`. Throws `invalidArgument`, without the text. */
  constructor(text: string) {
    const url = URL.canParse(text) ? new URL(text) : undefined
    const isKnown = url?.protocol === 'postgres:' || url?.protocol === 'postgresql:'
    // pg would take the list of hosts as one name.
    const hosts = url === undefined ? '' : `${url.host}${url.searchParams.get('host') ?? ''}`
    if (url === undefined || !isKnown || hosts.includes(','))
      throw new EscrowError(
        'invalidArgument',
        "the database's URL is not postgres://user:password@host:port/database with one host: for several, name a virtual address or a proxy of TCP that leads to the primary",
      )
    this.#url = url
  }

  /** With the password: for the driver alone. */
  reveal(): string {
    return this.#url.href
  }

  /** Host, port and database. */
  toString(): string {
    const { host, pathname } = this.#url
    return `postgres://${host}${pathname}`
  }

  toJSON(): string {
    return this.toString()
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString()
  }
}
