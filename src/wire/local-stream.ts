/**
 * A session inside one process: the same promises as over a network (later, in batches, in order), without encoding.
 * What is sent is copied, bodies included, so that neither side can change what the other one has.
 */
import { EscrowError } from '../core/errors.ts'
import type { CoordinatorStream, ItemStream, ServiceStream } from './items.ts'

/** Two ends of one stream. `defer` calls back once, after what this event-loop turn still brings. */
export function localStreamPair(defer: (callback: () => void) => void): {
  readonly service: ServiceStream
  readonly coordinator: CoordinatorStream
} {
  const service = new LocalStream<unknown, unknown>(defer)
  const coordinator = new LocalStream<unknown, unknown>(defer)
  service.peer = coordinator
  coordinator.peer = service
  return { service: service as ServiceStream, coordinator: coordinator as CoordinatorStream }
}

class LocalStream<Sent, Received> implements ItemStream<Sent, Received> {
  readonly #defer: (callback: () => void) => void
  peer!: LocalStream<Received, Sent>
  #queue: Sent[] = []
  #isClosed = false
  #onItems: (items: readonly Received[]) => void = () => {}
  #onClose: (error: EscrowError | undefined) => void = () => {}

  constructor(defer: (callback: () => void) => void) {
    this.#defer = defer
  }

  send(item: Sent): void {
    if (this.#isClosed) return
    if (this.#queue.length === 0) this.#defer(() => this.#flush())
    this.#queue.push(copyOf(item))
  }

  close(error?: EscrowError): void {
    if (this.#isClosed) return
    if (error !== undefined) this.#queue = []
    this.#end(error)
    // After what is queued, which the flush that was deferred before hands over.
    this.#defer(() => this.peer.#end(error))
  }

  onItems(callback: (items: readonly Received[]) => void): void {
    this.#onItems = callback
  }

  onClose(callback: (error: EscrowError | undefined) => void): void {
    this.#onClose = callback
  }

  #flush(): void {
    const items = this.#queue
    this.#queue = []
    if (items.length > 0) this.peer.#receive(items)
  }

  #receive(items: readonly Received[]): void {
    if (this.#isClosed) return
    try {
      this.#onItems(items)
    } catch (error) {
      this.close(EscrowError.from(error))
    }
  }

  #end(error: EscrowError | undefined): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#defer(() => this.#onClose(error))
  }
}

/** A copy of plain data with all bytes in it; errors, which nobody changes, stay the same. */
function copyOf<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Uint8Array) return new Uint8Array(value) as T
  if (Array.isArray(value)) return value.map(copyOf) as T
  if (value instanceof Error) return value
  const copy = { ...value } as Record<string, unknown>
  for (const name in copy) {
    const part = copy[name]
    if (typeof part === 'object' && part !== null) copy[name] = copyOf(part)
  }
  return copy as T
}
