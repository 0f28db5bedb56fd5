/** Brings the state of a running saga from one version of its definition to another. */
import { EscrowError } from '../errors.ts'
import { checkJson } from './json.ts'
import type { Json, MigratedState, RunningParts } from './program.ts'
import type { Statechart } from './statechart.ts'

/** By the version that a saga ran before: a pure function from that version's stored state to this one's. */
export type Migrations = Readonly<Record<number, (state: Json) => Json>>

/** What a migration needs of a definition. */
export interface Migratable {
  readonly name: string
  readonly version: number
  readonly chart: Statechart
  readonly migrations: Migrations
}

/**
 * Gives the state for the definition `to`, as it is to be stored, of a saga that ran under `from`, by the function that
 * `to.migrations` has for that version: what a test of a migration calls. Whatever runs must run on under the same names:
 * nothing would start what the new state has more, or stop what it has less. Throws `noMigration`, `migrationFailed`,
 * `invalidArgument`, and what the function throws.
 *
 * ```ts
 * import { defineSaga, migrateSaga } from 'escrow'
 *
 * const first = defineSaga({
 *   name: 'order', version: 1,
 *   flow: ({ step }) => [step('reserve', { action: 'stock/reserve', compensation: true })],
 * })
 * const second = defineSaga({
 *   name: 'order', version: 2,
 *   // `reserve` is still there, and everything behind it may be new: the state stays as it is.
 *   migrations: { 1: (state) => state },
 *   flow: ({ step }) => [
 *     step('reserve', { action: 'stock/reserve', compensation: true }),
 *     step('pack', { action: 'stock/pack', compensation: true }),
 *   ],
 * })
 * const whileItReserves = { value: 'reserve' }
 * migrateSaga(first, second, whileItReserves, undefined)
 * ```
 */
export function migrateSaga(
  from: Migratable,
  to: Migratable,
  persisted: Json,
  input: Json | undefined,
): Json {
  if (from.name !== to.name || !Object.hasOwn(to.migrations, from.version))
    throw new EscrowError(
      'noMigration',
      `saga ${JSON.stringify(to.name)}: version ${to.version} has no migration from version ${from.version} of ${JSON.stringify(from.name)}`,
    )
  const before = from.chart.running(from.chart.restore(persisted, input))
  const after = migratedState(to, from.version, structuredClone(persisted), input)
  checkRunsOn(before, after.running)
  return after.state.persist()
}

/** What a stored state of the version `from` is in this one, which must declare that migration. Throws as `migrateSaga` does. */
export function migratedState(
  { chart, migrations }: Pick<Migratable, 'chart' | 'migrations'>,
  from: number,
  persisted: Json,
  input: Json | undefined,
): MigratedState {
  const given = checkJson(migrations[from]?.(persisted), 'the state that the migration gave')
  if (typeof given !== 'object' || given === null || !('value' in given))
    throw new EscrowError('migrationFailed', 'the migration gave no state: one has a `value`')
  const state = chart.restore(given, input)
  return { state, running: chart.running(state), takes: (signal) => chart.takes(state, signal) }
}

/** Throws `migrationFailed` unless the same steps and timers run after it as before. */
export function checkRunsOn(before: RunningParts, after: RunningParts): void {
  checkSame('steps', before.invocations, after.invocations)
  checkSame('timers', before.timers, after.timers)
}

function checkSame(what: string, before: readonly string[], after: readonly string[]): void {
  const [were, are] = [[...before].sort(), [...after].sort()]
  if (were.length === are.length && were.every((each, index) => each === are[index])) return
  const list = (names: readonly string[]) => names.join(', ') || 'none'
  throw new EscrowError(
    'migrationFailed',
    `a migration lets everything run on: the ${what} that ran were ${list(were)}, and would be ${list(are)}`,
  )
}
