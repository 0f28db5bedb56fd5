/** What the sessions of this node serve, by service and database: what other nodes are told. */
import type { Registration } from '../core/api.ts'
import type { Namespace } from '../core/ids.ts'

/** All that this node's sessions serve of one service with one database; without names: nothing any more. */
export interface Offer {
  readonly namespace: Namespace
  readonly service: string
  readonly registration: Registration
}

const KINDS = ['handlers', 'checkers', 'steps'] as const
type Kind = (typeof KINDS)[number]

/** How many sessions serve each name. */
interface Names {
  readonly namespace: Namespace
  readonly service: string
  readonly databaseId: string
  readonly counts: { readonly [K in Kind]: Map<string, number> }
}

/** The names of one session. */
export interface RosterEntry {
  /** Adds names; one that is there already gets the database of this registration. */
  serve(registration: Registration): void
  leave(): void
}

/** Counts who serves what. Adding a session that serves what others do costs its own names, and changes nothing. */
export class Roster {
  readonly #names = new Map<string, Names>()
  readonly #changed = new Set<string>()
  readonly #defer: (callback: () => void) => void
  #onOffer: (offer: Offer) => void = () => {}

  constructor(defer: (callback: () => void) => void) {
    this.#defer = defer
  }

  /** Everything that is served now. */
  get offers(): readonly Offer[] {
    return [...this.#names.values()].map(offerOf)
  }

  /** Calls back once a turn for each offer that has changed. */
  onOffer(callback: (offer: Offer) => void): void {
    this.#onOffer = callback
  }

  /** A session of this service has come. */
  enter(namespace: Namespace, service: string): RosterEntry {
    /** By kind and name, the database that it was told with. */
    const served = new Map<string, () => void>()
    return {
      serve: (registration) => {
        for (const kind of KINDS) {
          for (const name of registration[kind] ?? []) {
            const key = `${kind} ${name}`
            served.get(key)?.()
            served.set(
              key,
              this.#add({ namespace, service, databaseId: registration.databaseId }, kind, name),
            )
          }
        }
      },
      leave: () => {
        for (const remove of served.values()) remove()
        served.clear()
      },
    }
  }

  /** Returns what takes the name back. */
  #add(of: Omit<Names, 'counts'>, kind: Kind, name: string): () => void {
    const key = `${of.namespace}/${of.service} ${of.databaseId}`
    let names = this.#names.get(key)
    if (names === undefined) {
      names = { ...of, counts: { handlers: new Map(), checkers: new Map(), steps: new Map() } }
      this.#names.set(key, names)
    }
    const counts = names.counts[kind]
    const count = counts.get(name) ?? 0
    counts.set(name, count + 1)
    if (count === 0) this.#change(key)
    return () => {
      const left = (counts.get(name) ?? 0) - 1
      if (left > 0) return void counts.set(name, left)
      counts.delete(name)
      this.#change(key)
    }
  }

  #change(key: string): void {
    if (this.#changed.size === 0) this.#defer(() => this.#tell())
    this.#changed.add(key)
  }

  #tell(): void {
    const changed = [...this.#changed]
    this.#changed.clear()
    for (const key of changed) {
      const names = this.#names.get(key)
      if (names === undefined) continue
      if (KINDS.every((kind) => names.counts[kind].size === 0)) this.#names.delete(key)
      this.#onOffer(offerOf(names))
    }
  }
}

function offerOf({ namespace, service, databaseId, counts }: Names): Offer {
  const { handlers, checkers, steps } = counts
  return {
    namespace,
    service,
    registration: {
      handlers: [...handlers.keys()],
      checkers: [...checkers.keys()],
      steps: [...steps.keys()],
      databaseId,
    },
  }
}
