/** What takes the microseconds of a transaction. */
import type { SelfTimes } from './cpu-profile.ts'
import { type LoadKind, runProfiled } from './loads.ts'
import { messageLoad } from './message-embedded.ts'
import { LENGTHS } from './saga-definitions.ts'
import { sagaLoad } from './saga-embedded.ts'
import { longLoad, parallelLoad } from './saga-shapes.ts'

/** What can be profiled, by the name of its bench. */
const LOADS: Readonly<Record<string, LoadKind>> = {
  'message-embedded': messageLoad,
  'saga-embedded': sagaLoad,
  'saga-parallel': parallelLoad,
  'saga-long': longLoad(Math.max(...LENGTHS)),
}
export const PROFILED: readonly string[] = Object.keys(LOADS)

const FUNCTIONS = 25

const descending = (times: ReadonlyMap<string, number>): readonly (readonly [string, number])[] =>
  [...times].sort(([, one], [, other]) => other - one)

function lines(
  title: string,
  { groups, functions }: SelfTimes,
  transactions: number,
  unit: string,
): readonly string[] {
  const line = ([name, us]: readonly [string, number]): string =>
    `  ${(us / transactions).toFixed(2).padStart(7)}  ${name}`
  const total = [...groups.values()].reduce((sum, us) => sum + us, 0)
  return [
    `${title}: ${(total / transactions).toFixed(2)} µs of its main thread a ${unit}`,
    ...descending(groups).map(line),
    `  of which, function by function:`,
    ...descending(functions).slice(0, FUNCTIONS).map(line),
    '',
  ]
}

/** Runs a bench's load once, under a profiler on both sides, and prints the self times in µs of each that it counts. */
export async function printProfile(name: string, print: (line: string) => void): Promise<void> {
  const kind = LOADS[name]
  if (kind === undefined) throw new Error(`--profile ${name}: can be one of ${PROFILED.join(', ')}`)
  const unit = kind.saga === undefined ? 'transaction' : kind.saga.counted.slice(0, -1)
  const { load, server, client } = await runProfiled(kind)
  const { used, transactions } = load
  print(`\n${Math.round(load.perSecond)}/s under the profiler; CPU of all threads in µs a ${unit}:`)
  print(
    `  coordinator ${((1_000 * used.serverCpuMs) / transactions).toFixed(1)}, client ${((1_000 * used.clientCpuMs) / transactions).toFixed(1)}\n`,
  )
  for (const line of lines('coordinator', server, transactions, unit)) print(line)
  for (const line of lines('client', client, transactions, unit)) print(line)
}
