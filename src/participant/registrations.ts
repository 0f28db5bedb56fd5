import type { Registration } from '../core/api.ts'
import type { EscrowError } from '../core/errors.ts'
import type { ServiceItem } from '../wire/items.ts'

interface Entry {
  readonly registration: Registration
  /** Undefined once it is durable. */
  settle: { resolve(): void; reject(error: EscrowError): void } | undefined
}

/**
 * The names that a session serves. What is durable goes into the hello of every further connection; what isn't yet is
 * registered on each connection until it is.
 */
export class Registrations {
  readonly #entries = new Set<Entry>()
  readonly #sent = new Map<number, Entry>()
  #send: ((item: ServiceItem) => void) | undefined
  #nextNumber = 1

  /** Resolves when the names are durable; rejects with what the coordinator answers. */
  add(registration: Registration): Promise<void> {
    return new Promise((resolve, reject) => {
      const entry: Entry = { registration, settle: { resolve, reject } }
      this.#entries.add(entry)
      this.#register(entry)
    })
  }

  #register(entry: Entry): void {
    if (this.#send === undefined) return
    const number = this.#nextNumber++
    this.#sent.set(number, entry)
    this.#send({ type: 'register', number, registration: entry.registration })
  }

  // A hello holds one database: what stands behind another one is registered after the welcome.
  #inHello(): string {
    for (const entry of this.#entries) if (entry.settle === undefined) return entry.registration.databaseId
    return ''
  }

  /** The durable names, as far as one registration can hold them. */
  forHello(): Registration {
    const databaseId = this.#inHello()
    const checkers: string[] = []
    const handlers: string[] = []
    const steps: string[] = []
    for (const { registration, settle } of this.#entries) {
      if (settle !== undefined || registration.databaseId !== databaseId) continue
      checkers.push(...registration.checkers)
      handlers.push(...registration.handlers)
      steps.push(...(registration.steps ?? []))
    }
    return { checkers, handlers, steps, databaseId }
  }

  /** A welcome came. */
  connected(send: (item: ServiceItem) => void): void {
    this.#send = send
    const databaseId = this.#inHello()
    for (const entry of this.#entries) {
      if (entry.settle !== undefined || entry.registration.databaseId !== databaseId) this.#register(entry)
    }
  }

  lost(): void {
    this.#send = undefined
    this.#sent.clear()
  }

  /** The coordinator answered a registration. */
  registered(number: number, error: EscrowError | undefined): void {
    const entry = this.#sent.get(number)
    if (entry === undefined) return
    this.#sent.delete(number)
    const settle = entry.settle
    entry.settle = undefined
    if (error === undefined) {
      settle?.resolve()
    } else if (settle !== undefined) {
      this.#entries.delete(entry)
      settle.reject(error)
    }
  }

  close(error: EscrowError): void {
    this.lost()
    for (const { settle } of this.#entries) settle?.reject(error)
    this.#entries.clear()
  }
}
