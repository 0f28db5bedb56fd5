/** What takes the microseconds of a transaction. */
import type { SelfTimes } from './cpu-profile.ts'
import { runProfiled } from './message-embedded.ts'

const FUNCTIONS = 25

const descending = (times: ReadonlyMap<string, number>): readonly (readonly [string, number])[] =>
  [...times].sort(([, one], [, other]) => other - one)

function lines(title: string, { groups, functions }: SelfTimes, transactions: number): readonly string[] {
  const line = ([name, us]: readonly [string, number]): string =>
    `  ${(us / transactions).toFixed(2).padStart(7)}  ${name}`
  const total = [...groups.values()].reduce((sum, us) => sum + us, 0)
  return [
    `${title}: ${(total / transactions).toFixed(2)} µs of its main thread a transaction`,
    ...descending(groups).map(line),
    `  of which, function by function:`,
    ...descending(functions).slice(0, FUNCTIONS).map(line),
    '',
  ]
}

/** Runs message-embedded once, under a profiler on both sides, and prints the self times in µs a transaction. */
export async function printProfile(print: (line: string) => void): Promise<void> {
  const { load, server, client } = await runProfiled()
  const { used, transactions } = load
  print(`\n${Math.round(load.perSecond)}/s under the profiler; CPU of all threads in µs a transaction:`)
  print(
    `  coordinator ${((1_000 * used.serverCpuMs) / transactions).toFixed(1)}, client ${((1_000 * used.clientCpuMs) / transactions).toFixed(1)}\n`,
  )
  for (const line of lines('coordinator', server, transactions)) print(line)
  for (const line of lines('client', client, transactions)) print(line)
}
