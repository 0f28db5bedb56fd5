/** On which backend a service runs. */
export type Backend = 'docker' | 'native' | 'embedded'

const all: readonly Backend[] = ['docker', 'native', 'embedded']

/** What every way to start a service answers with. */
export interface Running {
  readonly backend: Backend
  readonly version: string
  stop(): Promise<void>
}

/** How a service starts on the backends that have it; each throws with the reason why it can't be had. */
export type Ways<T, O> = Readonly<Partial<Record<Backend, (options: O) => Promise<T>>>>

/** A service that answers: what the test gets, how it is called in the closing table, and how it ends. */
export interface Started<T> {
  readonly value: T
  readonly backend: string
  readonly version: string
  /** Why it doesn't run where it was looked for first; absent or empty when it does. */
  readonly insteadOf?: string
  stop(): Promise<void>
}

/**
 * Starts a service on the first backend that has it.
 *
 * - `backend` in the options: that one or none.
 * - `TEST_SERVICES=docker`, `native` or `embedded`: that one or none.
 * - `TEST_SERVICES=auto`: Docker, where an engine answers and the image is there; else native; else embedded.
 * - Else the order in `usual`, by default as `auto`.
 */
export async function startOn<T extends Running, O extends { readonly backend?: Backend }>(
  ways: Ways<T, O>,
  options: O,
  usual: readonly Backend[] = all,
): Promise<Started<T>> {
  const reasons: { backend: Backend; reason: string }[] = []
  const backends = order(options.backend, usual)
  for (const backend of backends) {
    const way = ways[backend]
    if (way === undefined) {
      // In an order, it is only passed by.
      if (backends.length === 1) reasons.push({ backend, reason: `this service does not run ${backend}` })
      continue
    }
    try {
      const value = await way(options)
      const { version } = value
      return { value, backend, version, insteadOf: each(reasons), stop: () => value.stop() }
    } catch (error) {
      reasons.push({
        backend,
        reason: error instanceof Error ? error.message.split('\n')[0]! : String(error),
      })
    }
  }
  // One backend is told by the table in a column of its own.
  throw new Error(reasons.length === 1 ? reasons[0]!.reason : each(reasons))
}

function each(reasons: readonly { backend: Backend; reason: string }[]): string {
  return reasons.map(({ backend, reason }) => `${backend}: ${reason}`).join('; ')
}

function order(asked: Backend | undefined, usual: readonly Backend[]): readonly Backend[] {
  if (asked !== undefined) return [asked]
  const set = process.env.TEST_SERVICES ?? ''
  if (set === '') return usual
  if (set === 'auto') return all
  const one = all.find((each) => each === set)
  if (one === undefined) throw new Error(`TEST_SERVICES is "${set}"; it may be auto, ${all.join(', ')}`)
  return [one]
}
