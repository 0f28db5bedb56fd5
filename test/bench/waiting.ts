/** What waits in crowds: the memory that it takes, and a restart with one of it due. */
import { setTimeout as pause } from 'node:timers/promises'
import type { Bench, BenchOptions } from './bench.ts'
import { Child } from './child.ts'
import { startCoordinator } from './coordinator.ts'
import { type Row, row } from './figures.ts'
import { dropFolder, freshFolder } from './folders.ts'
import { rssAnonBytes } from './process-figures.ts'
import { DUE_AFTER_MS } from './saga-definitions.ts'
import type { WaitingOf, WaitingQuestion } from './waiting-process.ts'

/** How many wait where nothing else is asked for. */
export const WAITING = 1_000_000
const IN_FLIGHT = 1_024
const BODY_BYTES = 200
const IDLE_MS = 3_000
/** Checkpoints come about once a second, what they wrote leaves memory after them, and garbage some seconds later. */
const SETTLE_MS = 15_000
const SAMPLE_MS = 50
const GROWTH_MB_MAX = 200
const ACTED_WITHIN_S = 5

interface WaitingKind {
  readonly of: WaitingOf
  readonly name: string
  readonly config?: string
  /** What begins one that waits, in the plural, and what is seen when one is due. */
  readonly begun: string
  readonly acted: string
  /** From the beginning of the one that is due until the SIGKILL. */
  readonly killAfterMs: number
}

interface Waiting {
  readonly idleMb: number
  readonly growthMb: number
  readonly peakMb: number
  readonly restartedMb: number
  readonly begunPerSecond: number
  readonly freshStartS: number
  readonly restartS: number
  readonly actedAfterReadyS: number
  readonly actedAfterStartS: number
}

const megabytes = (pid: number): number => rssAnonBytes(pid) / 1e6
const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6

async function runOnce(
  { of, config, killAfterMs }: WaitingKind,
  { waiting, note }: Pick<BenchOptions, 'waiting' | 'note'>,
): Promise<Waiting> {
  const folder = freshFolder()
  const first = await startCoordinator(folder, config)
  const client = new Child('waiting-process.ts', { args: [of] })
  const ask = (question: WaitingQuestion): Promise<number> => client.ask<number>(question)
  await ask({ type: 'connect', port: first.port })
  await pause(IDLE_MS)
  const idleMb = megabytes(first.pid)
  let peakMb = idleMb
  const sampling = setInterval(() => {
    peakMb = Math.max(peakMb, megabytes(first.pid))
  }, SAMPLE_MS)
  const filledFrom = nowMs()
  await ask({ type: 'fill', count: waiting, inFlight: IN_FLIGHT, bodyBytes: BODY_BYTES })
  const begunPerSecond = waiting / ((nowMs() - filledFrom) / 1_000)
  await pause(SETTLE_MS)
  clearInterval(sampling)
  const growthMb = megabytes(first.pid) - idleMb
  note(`held ${waiting} at ${Math.round(begunPerSecond)}/s; RssAnon grew by ${growthMb.toFixed(0)} MB`)

  await ask({ type: 'due', port: first.port })
  await pause(killAfterMs)
  await client.stop()
  await first.process.signal('SIGKILL')

  const restartedFrom = nowMs()
  const second = await startCoordinator(folder, config)
  const readyAt = nowMs()
  const checker = new Child('waiting-process.ts', { args: [of] })
  const actedAt = await checker.ask<number>({ type: 'await', port: second.port } satisfies WaitingQuestion)
  await pause(IDLE_MS)
  const restartedMb = megabytes(second.pid)
  await checker.stop()
  await second.process.signal('SIGTERM')
  dropFolder(folder)
  return {
    idleMb,
    growthMb,
    peakMb,
    restartedMb,
    begunPerSecond,
    freshStartS: first.startMs / 1_000,
    restartS: second.startMs / 1_000,
    actedAfterReadyS: (actedAt - readyAt) / 1_000,
    actedAfterStartS: (actedAt - restartedFrom) / 1_000,
  }
}

async function run(kind: WaitingKind, { runs, waiting, note }: BenchOptions): Promise<readonly Row[]> {
  const { name, begun, acted } = kind
  const all: Waiting[] = []
  for (let at = 1; at <= runs; at++) {
    all.push(await runOnce(kind, { waiting, note: (line) => note(`run ${at} of ${runs}: ${line}`) }))
  }
  const figure = (what: string, unit: string, of: keyof Waiting, bound?: readonly [number, string]): Row =>
    row(
      `${name} ${what}`,
      unit,
      all.map((each) => each[of]),
      bound === undefined ? {} : { limits: all.map(() => bound[0]), wanted: bound[1] },
    )
  return [
    figure('RssAnon growth', 'MB', 'growthMb', [
      GROWTH_MB_MAX,
      `less than ${GROWTH_MB_MAX} MB over an idle coordinator`,
    ]),
    figure('RssAnon idle', 'MB', 'idleMb'),
    figure('RssAnon peak while filling', 'MB', 'peakMb'),
    figure('RssAnon after the restart', 'MB', 'restartedMb'),
    figure(`${acted} after the start`, 's', 'actedAfterStartS', [
      ACTED_WITHIN_S,
      `within ${ACTED_WITHIN_S} s of the restart`,
    ]),
    figure(`${acted} after it was ready`, 's', 'actedAfterReadyS'),
    figure('start, empty store', 's', 'freshStartS'),
    figure('start, all waiting (SIGKILL before)', 's', 'restartS'),
    figure(begun, '/s', 'begunPerSecond'),
  ]
}

const waitingBench = (kind: WaitingKind, about: string): Bench => ({
  name: kind.name,
  about,
  run: (options) => run(kind, options),
})

export const waitingEmbedded: Bench = waitingBench(
  // Its check-back falls due before: nobody is there to be asked.
  {
    of: 'messages',
    name: 'waiting-embedded',
    begun: 'prepares',
    acted: 'asked',
    killAfterMs: 2_000,
  },
  'many prepared messages waiting: memory, and a restart with one of them due',
)

export const waitingSagas: Bench = waitingBench(
  {
    of: 'sagas',
    name: 'waiting-sagas',
    config: 'saga-config.ts',
    begun: 'starts',
    acted: 'acted',
    // Its deadline falls due after the restart, but for what the log saw before: it is the timer that must come back.
    killAfterMs: DUE_AFTER_MS / 2,
  },
  'many sagas waiting for a signal for a day: memory, and a restart with one of them due',
)
