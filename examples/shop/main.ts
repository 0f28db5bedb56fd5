/** `npm start`: the main job. See `npm start -- --help`. */
import { constants } from 'node:os'
import { type Counts, countTransactions } from './coordinator.ts'
import { killsMin } from './kills.ts'
import { type Options, parseOptions, UsageError, usage } from './options.ts'
import { expectedOutcome, type Reconciliation } from './reconciliation.ts'
import { Screen, tableLines } from './screen.ts'
import { Shop } from './shop.ts'

const differencesShownMax = 10

/** Why a run ends before its end. */
class Interrupted extends Error {
  readonly signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP'

  constructor(signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP') {
    super(`interrupted by ${signal}`)
    this.signal = signal
  }
}

process.exitCode = await main(process.argv.slice(2))
// A handle that somebody forgot, such as standard input, must not keep a finished run from ending.
process.exit()

async function main(args: readonly string[]): Promise<number> {
  try {
    const options = parseOptions(args)
    if (options !== undefined) return await run(options)
    process.stdout.write(usage)
    return 0
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    process.stderr.write(`${error.message}\n\n${usage}`)
    return 2
  }
}

async function run(options: Options): Promise<number> {
  const screen = new Screen(process.stdout)
  const interruption = new AbortController()
  interruptOnSignals(interruption, screen)
  const startedAt = performance.now()
  const shop = new Shop(options, screen)
  let status: number | undefined
  try {
    await shop.start(interruption.signal)
    await shop.work(interruption.signal)
    const counts = await countTransactions(shop.ports)
    const books = await shop.reconcile()
    status = report({ shop, counts, books, screen }) ? 0 : 1
    screen.print(
      `${status === 0 ? 'All balances' : 'NOT in balance'}, after ${seconds(performance.now() - startedAt)}.`,
    )
    if (!options.once) {
      for (const line of lookAround(shop)) screen.print(line)
      await shop.untilFailure(interruption.signal)
    }
  } catch (error) {
    // What was under way may have ended with an error of its own about the interruption.
    const reason: unknown = interruption.signal.aborted ? interruption.signal.reason : error
    if (reason instanceof Interrupted) status ??= 128 + constants.signals[reason.signal]
    else {
      status = 1
      screen.print(`failed: ${(reason as Error).message}`)
    }
  }
  await shop.stop()
  return status
}

/** Prints what became of the run, and tells whether it is as it must be. */
function report(run: { shop: Shop; counts: Counts; books: Reconciliation; screen: Screen }): boolean {
  const { shop, counts, books, screen } = run
  const print = (rows: readonly (readonly string[])[]) => {
    screen.print()
    for (const line of tableLines(rows)) screen.print(line)
  }
  const { sagas, messages, open } = counts
  print([
    ['sagas', 'count'],
    ['completed', String(sagas.completed)],
    ['compensated', String(sagas.compensated)],
    ['parked', String(sagas.parked)],
  ])
  print([
    ['messages', 'count'],
    ['committed', String(messages.committed)],
    ['rolled back', String(messages.rolledBack)],
    ['of these settled by check-back', String(messages.byCheckBack)],
    ['parked', String(messages.parked)],
  ])
  const killed = shop.killer === undefined ? true : reportKills(shop, shop.killer, print)
  print([
    ['input and databases', 'expected', 'found', ''],
    ...books.checks.map(({ what, expected, found, differences }) => {
      return [what, expected, found, differences.length === 0 ? 'balances' : `${differences.length} DIFFER`]
    }),
  ])
  for (const { what, differences } of books.checks) {
    for (const difference of differences.slice(0, differencesShownMax))
      screen.print(`  ${what}: ${difference}`)
    const more = differences.length - differencesShownMax
    if (more > 0) screen.print(`  ${what}: and ${more} more`)
  }
  screen.print()
  const parked = sagas.parked + messages.parked
  if (parked + open > 0) screen.print(`${parked} transactions are parked, ${open} open.`)
  if (!killed)
    screen.print(
      `Some process was killed fewer than ${killsMin} times with work in flight: nothing is shown.`,
    )
  return books.balances && killed && parked + open === 0
}

function reportKills(shop: Shop, killer: Shop['killer'] & {}, print: (rows: string[][]) => void): boolean {
  const rows = shop.names.map((name) => {
    const kills = killer.records.filter((record) => record.victim === name)
    const back = kills.flatMap(({ backMs }) => (backMs === undefined ? [] : [backMs])).sort((a, b) => a - b)
    const [median = 0, longest = 0] = [back[back.length >> 1], back.at(-1)]
    return [name, String(kills.length), String(killer.counted(name)), seconds(median), seconds(longest)]
  })
  print([['killed', 'times', 'with work in flight', 'back after (median)', 'at most'], ...rows])
  return shop.names.every((name) => killer.counted(name) >= killsMin)
}

function lookAround(shop: Shop): string[] {
  const url = `http://localhost:${shop.ports.http}/escrow.v1.CoordinatorService`
  const post = (method: string, body: string) =>
    `  curl -s ${url}/${method} -H 'content-type: application/json' -d '${body}'`
  const cli = (command: string) => `  npm run -s escrow -- ${command} --address localhost:${shop.ports.grpc}`
  const compensated = expectedOutcome(shop.input).compensated[0]
  return [
    '',
    'The shop stays open until Ctrl-C. To look around:',
    cli('list --status compensated --limit 3'),
    ...(compensated === undefined ? [] : [cli(`get ${compensated.order.id}`)]),
    post('List', '{"statuses":["TRANSACTION_STATUS_COMPENSATED"],"limit":1}'),
    post('List', '{"statuses":["TRANSACTION_STATUS_DELIVERED"],"limit":1}'),
    '  npm run -s escrow -- saga diagram place-order --config examples/shop/escrow.config.ts',
    `  curl -s http://localhost:${shop.ports.http}/readyz`,
    ...Object.values(shop.databaseUrls).map((database) => `  psql '${shown(database)}'`),
  ]
}

/** The embedded server's password is good for this run alone; one of somebody's own server isn't printed. */
function shown(databaseUrl: string): string {
  const url = new URL(databaseUrl)
  if (process.env.DATABASE_URL !== undefined && url.password !== '') url.password = '***'
  return url.href
}

/** The first signal stops the shop in order, a second one at once: the processes see their parent end, and end too. */
function interruptOnSignals(interruption: AbortController, screen: Screen): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (interruption.signal.aborted) process.exit(128 + constants.signals[signal])
      screen.print(`${signal}: stopping`)
      interruption.abort(new Interrupted(signal))
    })
  }
  // Nobody reads any more (`npm start | head`).
  process.stdout.on('error', () => interruption.abort(new Interrupted('SIGHUP')))
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(2)} s`
}
