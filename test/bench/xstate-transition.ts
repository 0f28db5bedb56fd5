import type { Bench, BenchOptions } from './bench.ts'
import { Child } from './child.ts'
import { type Row, row } from './figures.ts'
import type { TransitionTimes } from './transition-process.ts'

const SHARE_MAX = 0.55

async function runOnce(): Promise<TransitionTimes> {
  const process = new Child('transition-process.ts')
  const times = await process.answer<TransitionTimes>()
  await process.stop()
  return times
}

async function run({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const all: TransitionTimes[] = []
  for (let at = 1; at <= runs; at++) {
    const times = await runOnce()
    all.push(times)
    note(
      `run ${at} of ${runs}: a turn ${times.turn.toFixed(2)} µs, transition() ${times.transition.toFixed(2)} µs`,
    )
  }
  const figure = (
    what: string,
    of: (times: TransitionTimes) => number,
    limit?: { readonly of: (times: TransitionTimes) => number; readonly wanted?: string },
  ): Row =>
    row(
      what === '' ? xstateTransition.name : `${xstateTransition.name} ${what}`,
      'µs',
      all.map(of),
      limit === undefined
        ? {}
        : { limits: all.map(limit.of), ...(limit.wanted !== undefined && { wanted: limit.wanted }) },
    )
  const ofSaga = (times: TransitionTimes): number => times.recorded
  return [
    figure('', ({ turn }) => turn, {
      of: ({ transition }) => transition,
      wanted: `at most ${SHARE_MAX} of the public transition()`,
    }),
    figure('first turn', ({ firstTurn }) => firstTurn, {
      of: ({ initialTransition }) => initialTransition,
    }),
    figure('turn that is remembered', ({ knownTurn }) => knownTurn, { of: ({ transition }) => transition }),
    // What each of these is of a whole saga stands beside it as the ratio.
    figure('of a saga of two steps', ofSaga),
    figure('of a saga: three turns', ({ turns }) => turns, { of: ofSaga }),
    figure('of a saga: three decisions around them', ({ turns, decisions }) => decisions - turns, {
      of: ofSaga,
    }),
    figure('of a saga: three records encoded', ({ decisions, recorded }) => recorded - decisions, {
      of: ofSaga,
    }),
  ]
}

export const xstateTransition: Bench = {
  name: 'xstate-transition',
  about: "a turn of a saga's chart beside xstate's transition(), and where a saga's microseconds go",
  run,
}
