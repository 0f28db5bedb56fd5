import type { Bench, BenchOptions } from './bench.ts'
import { type Row, row } from './figures.ts'
import { type CountedLoad, type LoadKind, perSecond, rowsOf, runBare, runReal } from './loads.ts'
import { twoSteps } from './saga-definitions.ts'

const IN_FLIGHT = 1_024
const INPUT_BYTES = 200
const COUNTED = { unit: 'saga', records: 3 }

export const sagaLoad: LoadKind = {
  inFlight: IN_FLIGHT,
  bodyBytes: INPUT_BYTES,
  saga: { name: twoSteps.name, steps: 2, counted: 'sagas' },
}

async function run({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const bare: CountedLoad[] = []
  const real: CountedLoad[] = []
  for (let at = 1; at <= runs; at++) {
    bare.push(await runBare('saga', sagaLoad))
    real.push(await runReal(sagaLoad))
    const [theirs, ours] = [bare, real].map((loads) => Math.round(loads.at(-1)?.perSecond ?? 0))
    note(`run ${at} of ${runs}: ${ours}/s, bare ${theirs}/s`)
  }
  return [
    row('saga-embedded', 'sagas/s', perSecond(real), {
      limits: perSecond(bare),
      wanted: 'at least 0.35 of the bare loop (aim 25,000/s)',
    }),
    ...rowsOf('saga-embedded', COUNTED, real),
    row('bare-saga', 'sagas/s', perSecond(bare)),
    ...rowsOf('bare-saga', COUNTED, bare),
  ]
}

export const sagaEmbedded: Bench = {
  name: 'saga-embedded',
  about: `sagas of two steps with ${INPUT_BYTES} bytes of input, ${IN_FLIGHT} in flight, beside a bare loop`,
  run,
}
