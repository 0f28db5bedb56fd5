import type { Bench, BenchOptions } from './bench.ts'
import { type Row, row } from './figures.ts'
import { type CountedLoad, type LoadKind, perSecond, rowsOf, runBare, runReal } from './loads.ts'

const IN_FLIGHT = 1_024
const BODY_BYTES = 200
const COUNTED = { unit: 'tx', records: 3 }

export const messageLoad: LoadKind = { inFlight: IN_FLIGHT, bodyBytes: BODY_BYTES }

const KINDS = ['packed', 'own', 'plain', 'real'] as const
type Measured = (typeof KINDS)[number]

async function run({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const loads: Record<Measured, CountedLoad[]> = { packed: [], own: [], plain: [], real: [] }
  const measured = {
    packed: () => runBare('message-packed', messageLoad),
    own: () => runBare('message', messageLoad),
    plain: () => runBare('message-plain', messageLoad),
    real: () => runReal(messageLoad),
  }
  for (let at = 1; at <= runs; at++) {
    for (const kind of KINDS) {
      const load = await measured[kind]()
      loads[kind].push(load)
      note(`run ${at} of ${runs}, ${kind}: ${Math.round(load.perSecond)}/s`)
    }
  }
  const { packed, own, plain, real } = loads
  return [
    row('message-embedded', 'tx/s', perSecond(real), {
      limits: perSecond(plain),
      wanted: 'at least 20,000/s (aim 30,000) and 0.40 of the bare loop',
    }),
    row('message-embedded beside own frames', 'tx/s', perSecond(real), {
      limits: perSecond(own),
      wanted: 'at least 0.40 of it as well',
    }),
    row('message-embedded beside packed by hand', 'tx/s', perSecond(real), { limits: perSecond(packed) }),
    ...rowsOf('message-embedded', COUNTED, real),
    row('bare-embedded', 'tx/s', perSecond(plain)),
    ...rowsOf('bare-embedded', COUNTED, plain),
    row('bare-embedded own frames', 'tx/s', perSecond(own)),
    ...rowsOf('bare-embedded own frames', COUNTED, own),
    row('bare-embedded packed by hand', 'tx/s', perSecond(packed)),
  ]
}

export const messageEmbedded: Bench = {
  name: 'message-embedded',
  about: `prepare, commit and delivery of a ${BODY_BYTES}-byte message, ${IN_FLIGHT} in flight, beside bare loops`,
  run,
}
