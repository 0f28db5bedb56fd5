import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { Listener } from '../engine/names.ts'
import { ListenerCaller } from './callers.ts'
import type { Participants } from './participants.ts'

/** The services that listen, each called where it was last said to be. */
export class Listeners {
  readonly #participants: Participants
  readonly #runtime: Pick<Runtime, 'now'>
  readonly #log: (level: 'error', message: string) => void
  readonly #known = new Map<string, { readonly listener: string; readonly remove: () => void }>()

  constructor(
    participants: Participants,
    runtime: Pick<Runtime, 'now'>,
    log: (level: 'error', message: string) => void,
  ) {
    this.#participants = participants
    this.#runtime = runtime
    this.#log = log
  }

  /** Takes what is known of one now, at the start and at each change; without a URL it doesn't listen any more. */
  set(listener: Listener): void {
    const key = `${listener.namespace}/${listener.service}`
    const known = this.#known.get(key)
    const text = JSON.stringify(listener)
    if (known?.listener === text) return
    known?.remove()
    this.#known.delete(key)
    if (listener.url === '') return
    try {
      const caller = new ListenerCaller(listener.url, { now: () => this.#runtime.now() })
      const remove = this.#participants.addListener(
        listener.namespace,
        listener.service,
        listener.registration,
        caller,
      )
      this.#known.set(key, { listener: text, remove })
    } catch (thrown) {
      // It was stored by an earlier version: what is addressed to it waits, and parks when its time is over.
      this.#log('error', `service ${key} can't be called: ${EscrowError.from(thrown).message}`)
    }
  }

  /** Calls none any more. */
  clear(): void {
    for (const { remove } of this.#known.values()) remove()
    this.#known.clear()
  }
}
