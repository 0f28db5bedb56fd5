/** Brings the state of a running saga from one version of its definition to another. */
import { EscrowError } from '../errors.ts'
import type { Json } from './program.ts'
import type { Statechart } from './statechart.ts'

/** By the version that a saga began with: a pure function from that version's stored state to this one's. */
export type Migrations = Readonly<Record<number, (state: Json) => Json>>

/** What a migration needs of a definition. */
export interface Migratable {
  readonly name: string
  readonly version: number
  readonly chart: Statechart
  readonly migrations: Migrations
}

/**
 * Gives the state for the definition `to`, as it is to be stored, of a saga that began with `from`, by the function that
 * `to.migrations` has for that version. Whatever runs must run on under the same names: nothing would start what the
 * new state has more, or stop what it has less. Throws `invalidArgument`, and what the function throws.
 */
export function migrateSaga(
  from: Migratable,
  to: Migratable,
  persisted: Json,
  input: Json | undefined,
): Json {
  const migration = Object.hasOwn(to.migrations, from.version) ? to.migrations[from.version] : undefined
  if (migration === undefined || from.name !== to.name)
    throw new EscrowError(
      'invalidArgument',
      `saga ${JSON.stringify(to.name)}: version ${to.version} has no migration from version ${from.version} of ${JSON.stringify(from.name)}`,
    )
  const before = from.chart.running(from.chart.restore(persisted, input))
  const migrated = to.chart.restore(migration(structuredClone(persisted)), input)
  const after = to.chart.running(migrated)
  checkRunsOn('steps', before.invocations, after.invocations)
  checkRunsOn('timers', before.timers, after.timers)
  return migrated.persist()
}

function checkRunsOn(what: string, before: readonly string[], after: readonly string[]): void {
  const [were, are] = [[...before].sort(), [...after].sort()]
  if (were.length === are.length && were.every((each, index) => each === are[index])) return
  const list = (names: readonly string[]) => names.join(', ') || 'none'
  throw new EscrowError(
    'invalidArgument',
    `a migration lets everything run on: the ${what} that ran were ${list(were)}, and would be ${list(are)}`,
  )
}
