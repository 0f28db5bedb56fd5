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
  const plain: CountedLoad[] = []
  const real: CountedLoad[] = []
  for (let at = 1; at <= runs; at++) {
    bare.push(await runBare('saga', sagaLoad))
    plain.push(await runBare('saga-plain', sagaLoad))
    real.push(await runReal(sagaLoad))
    const [least, inPlain, ours] = [bare, plain, real].map((loads) =>
      Math.round(loads.at(-1)?.perSecond ?? 0),
    )
    note(`run ${at} of ${runs}: ${ours}/s, bare ${least}/s, in plain protobuf ${inPlain}/s`)
  }
  return [
    row('saga-embedded', 'sagas/s', perSecond(real), {
      limits: perSecond(bare),
      wanted: 'at least 0.35 of the bare loop (aim 25,000/s)',
    }),
    row('saga-embedded beside plain protobuf', 'sagas/s', perSecond(real), { limits: perSecond(plain) }),
    ...rowsOf('saga-embedded', COUNTED, real),
    row('bare-saga', 'sagas/s', perSecond(bare)),
    ...rowsOf('bare-saga', COUNTED, bare),
    row('bare-saga plain', 'sagas/s', perSecond(plain)),
    ...rowsOf('bare-saga plain', COUNTED, plain),
  ]
}

export const sagaEmbedded: Bench = {
  name: 'saga-embedded',
  about: `sagas of two steps with ${INPUT_BYTES} bytes of input, ${IN_FLIGHT} in flight, beside bare loops`,
  run,
}
