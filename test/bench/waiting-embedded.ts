import { setTimeout as pause } from 'node:timers/promises'
import type { Bench, BenchOptions } from './bench.ts'
import { Child } from './child.ts'
import { startCoordinator } from './coordinator.ts'
import { type Row, row } from './figures.ts'
import { dropFolder, freshFolder } from './folders.ts'
import { rssAnonBytes } from './process-figures.ts'
import type { WaitingQuestion } from './waiting-process.ts'

const WAITING = 1_000_000
const IN_FLIGHT = 1_024
const BODY_BYTES = 200
const IDLE_MS = 3_000
/** Checkpoints come about once a second, what they wrote leaves memory after them, and garbage some seconds later. */
const SETTLE_MS = 15_000
const DUE_AFTER_MS = 1_000
const SAMPLE_MS = 50
const GROWTH_MB_MAX = 200
const ASKED_WITHIN_S = 5

interface Waiting {
  readonly idleMb: number
  readonly growthMb: number
  readonly peakMb: number
  readonly restartedMb: number
  readonly preparesPerSecond: number
  readonly freshStartS: number
  readonly restartS: number
  readonly askedAfterReadyS: number
  readonly askedAfterStartS: number
}

const megabytes = (pid: number): number => rssAnonBytes(pid) / 1e6
const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6

async function runOnce(note: BenchOptions['note']): Promise<Waiting> {
  const folder = freshFolder()
  const first = await startCoordinator(folder)
  const client = new Child('waiting-process.ts')
  const ask = (question: WaitingQuestion): Promise<number> => client.ask<number>(question)
  await ask({ type: 'connect', port: first.port })
  await pause(IDLE_MS)
  const idleMb = megabytes(first.pid)
  let peakMb = idleMb
  const sampling = setInterval(() => {
    peakMb = Math.max(peakMb, megabytes(first.pid))
  }, SAMPLE_MS)
  const filledFrom = nowMs()
  await ask({ type: 'fill', count: WAITING, inFlight: IN_FLIGHT, bodyBytes: BODY_BYTES })
  const preparesPerSecond = WAITING / ((nowMs() - filledFrom) / 1_000)
  await pause(SETTLE_MS)
  clearInterval(sampling)
  const growthMb = megabytes(first.pid) - idleMb
  note(`held ${WAITING} at ${Math.round(preparesPerSecond)}/s; RssAnon grew by ${growthMb.toFixed(0)} MB`)

  await ask({ type: 'due', port: first.port, delayMs: DUE_AFTER_MS })
  await pause(2 * DUE_AFTER_MS)
  await client.stop()
  await first.process.signal('SIGKILL')

  const restartedFrom = nowMs()
  const second = await startCoordinator(folder)
  const readyAt = nowMs()
  const checker = new Child('waiting-process.ts')
  const askedAt = await checker.ask<number>({ type: 'await', port: second.port } satisfies WaitingQuestion)
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
    preparesPerSecond,
    freshStartS: first.startMs / 1_000,
    restartS: second.startMs / 1_000,
    askedAfterReadyS: (askedAt - readyAt) / 1_000,
    askedAfterStartS: (askedAt - restartedFrom) / 1_000,
  }
}

async function run({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const all: Waiting[] = []
  for (let at = 1; at <= runs; at++) {
    all.push(await runOnce((line) => note(`run ${at} of ${runs}: ${line}`)))
  }
  const figure = (what: string, unit: string, of: keyof Waiting, bound?: readonly [number, string]): Row =>
    row(
      `waiting-embedded ${what}`,
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
    figure('asked after the start', 's', 'askedAfterStartS', [
      ASKED_WITHIN_S,
      `within ${ASKED_WITHIN_S} s of the restart`,
    ]),
    figure('asked after it was ready', 's', 'askedAfterReadyS'),
    figure('start, empty store', 's', 'freshStartS'),
    figure('start, all waiting (SIGKILL before)', 's', 'restartS'),
    figure('prepares', '/s', 'preparesPerSecond'),
  ]
}

export const waitingEmbedded: Bench = {
  name: 'waiting-embedded',
  about: `${WAITING} prepared messages waiting: memory, and a restart with one of them due`,
  run,
}
