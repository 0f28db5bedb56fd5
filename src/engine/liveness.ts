/**
 * Who is alive, told from heartbeats that are seen to change: no clock of another machine is believed, and no time counts in
 * which nobody could have written or looked.
 */
/** What a node tells of itself. */
interface Seen {
  readonly version: number
  /** How long it has been seen unchanged. */
  readonly silentMs: number
}

/** Follows the heartbeats of nodes, look by look. */
export class Liveness {
  readonly #lookMs: number
  #seen = new Map<string, Seen>()
  #lookedAtMs: number | undefined

  /** `lookMs`: how often one looks; a longer pause counts as two of these, for then it was this side that was away. */
  constructor(lookMs: number) {
    this.#lookMs = lookMs
  }

  /** Takes the versions of all heartbeats, by node, as they were read at a time of the monotonic clock. */
  look(heartbeats: ReadonlyMap<string, { readonly version: number }>, monotonicMs: number): void {
    const sinceMs = Math.min(monotonicMs - (this.#lookedAtMs ?? monotonicMs), 2 * this.#lookMs)
    this.#lookedAtMs = monotonicMs
    const seen = new Map<string, Seen>()
    for (const [node, { version }] of heartbeats) {
      const known = this.#seen.get(node)
      const silentMs = known?.version === version ? known.silentMs + sinceMs : 0
      seen.set(node, { version, silentMs })
    }
    this.#seen = seen
  }

  /** For how long this one has been silent; 0 for one that was never seen. */
  silentMs(node: string): number {
    return this.#seen.get(node)?.silentMs ?? 0
  }
}
