/** Sagas of other shapes: many steps at once, and many in sequence. */
import type { Bench, BenchOptions } from './bench.ts'
import { type Row, row } from './figures.ts'
import { type CountedLoad, cpuUs, type LoadKind, perSecond, rowsOf, runReal } from './loads.ts'
import { LENGTHS, PARALLEL_STEPS, parallelSteps, sequenceName } from './saga-definitions.ts'

const INPUT_BYTES = 100
const PARALLEL_IN_FLIGHT = 256
/** So few that even the longest end several times within the window: all of their steps are in it alike. */
const LONG_IN_FLIGHT = 64
const GROWTH_MAX = 1.25

export const parallelLoad: LoadKind = {
  inFlight: PARALLEL_IN_FLIGHT,
  bodyBytes: INPUT_BYTES,
  saga: { name: parallelSteps.name, steps: PARALLEL_STEPS, counted: 'sagas' },
}

export const longLoad = (steps: number): LoadKind => ({
  inFlight: LONG_IN_FLIGHT,
  bodyBytes: INPUT_BYTES,
  saga: { name: sequenceName(steps), steps, counted: 'steps' },
})

async function runParallel({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const loads: CountedLoad[] = []
  for (let at = 1; at <= runs; at++) {
    const load = await runReal(parallelLoad)
    loads.push(load)
    note(`run ${at} of ${runs}: ${Math.round(load.perSecond)}/s`)
  }
  const { name } = sagaParallel
  const steps = (each: (load: CountedLoad) => number) => loads.map(each)
  return [
    row(name, 'sagas/s', perSecond(loads)),
    row(
      `${name} steps`,
      'steps/s',
      steps((load) => PARALLEL_STEPS * load.perSecond),
    ),
    row(
      `${name} server CPU`,
      'µs/step',
      steps((load) => cpuUs(load.used.serverCpuMs, load) / PARALLEL_STEPS),
    ),
    ...rowsOf(name, { unit: 'saga', records: 1 + PARALLEL_STEPS }, loads),
  ]
}

async function runLong({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const loads = new Map<number, CountedLoad[]>(LENGTHS.map((steps) => [steps, []]))
  for (let at = 1; at <= runs; at++) {
    for (const [steps, each] of loads) {
      const load = await runReal(longLoad(steps))
      each.push(load)
      const us = cpuUs(load.used.serverCpuMs, load).toFixed(1)
      note(`run ${at} of ${runs}, ${steps} steps: ${Math.round(load.perSecond)} steps/s, ${us} µs each`)
    }
  }
  const { name } = sagaLong
  const costs = (steps: number): readonly number[] =>
    loads.get(steps)!.map((load) => cpuUs(load.used.serverCpuMs, load))
  const [few, some, many] = LENGTHS
  const wanted = `a ratio of at most ${GROWTH_MAX}`
  return [
    row(`${name} server CPU, ${many} steps by ${few}`, 'µs/step', costs(many), {
      limits: costs(few),
      wanted,
    }),
    // Those of five bear their start on five steps, which hides what grows.
    row(`${name} server CPU, ${many} steps by ${some}`, 'µs/step', costs(many), {
      limits: costs(some),
      wanted,
    }),
    ...[...loads].flatMap(([steps, each]) => [
      row(`${name} of ${steps}`, 'steps/s', perSecond(each)),
      ...rowsOf(`${name} of ${steps}`, { unit: 'step', records: (steps + 1) / steps }, each),
    ]),
  ]
}

export const sagaParallel: Bench = {
  name: 'saga-parallel',
  about: `sagas of ${PARALLEL_STEPS} parallel steps, ${PARALLEL_IN_FLIGHT} in flight`,
  run: runParallel,
}

export const sagaLong: Bench = {
  name: 'saga-long',
  about: `what a step costs in sagas of ${LENGTHS.join(', ')} steps, ${LONG_IN_FLIGHT} in flight`,
  run: runLong,
}
