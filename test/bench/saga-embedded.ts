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
  const own: CountedLoad[] = []
  const plain: CountedLoad[] = []
  const real: CountedLoad[] = []
  for (let at = 1; at <= runs; at++) {
    own.push(await runBare('saga', sagaLoad))
    plain.push(await runBare('saga-plain', sagaLoad))
    real.push(await runReal(sagaLoad))
    const [inOwn, bare, ours] = [own, plain, real].map((loads) => Math.round(loads.at(-1)?.perSecond ?? 0))
    note(`run ${at} of ${runs}: ${ours}/s, bare ${bare}/s, in own frames ${inOwn}/s`)
  }
  return [
    row('saga-embedded', 'sagas/s', perSecond(real), {
      limits: perSecond(plain),
      wanted: 'at least 0.35 of the bare loop (aim 25,000/s)',
    }),
    row('saga-embedded beside own frames', 'sagas/s', perSecond(real), { limits: perSecond(own) }),
    ...rowsOf('saga-embedded', COUNTED, real),
    row('bare-saga', 'sagas/s', perSecond(plain)),
    ...rowsOf('bare-saga', COUNTED, plain),
    row('bare-saga own frames', 'sagas/s', perSecond(own)),
    ...rowsOf('bare-saga own frames', COUNTED, own),
  ]
}

export const sagaEmbedded: Bench = {
  name: 'saga-embedded',
  about: `sagas of two steps with ${INPUT_BYTES} bytes of input, ${IN_FLIGHT} in flight, beside bare loops`,
  run,
}
