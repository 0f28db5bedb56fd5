/**
 * `npm run bench [-- options]`: measures the coordinator and prints a table. It asserts nothing: its status is 0 unless
 * something breaks.
 */
import { writeFileSync } from 'node:fs'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import type { Bench } from './bench.ts'
import { messageBrokers, rocketmqNative } from './brokers.ts'
import { killChildren } from './child.ts'
import { type Row, tableLines } from './figures.ts'
import { describeDisk, dropFolders } from './folders.ts'
import { messageEmbeddedLatency, sagaEmbeddedLatency } from './latency.ts'
import { messageEmbedded } from './message-embedded.ts'
import {
  messagePostgres,
  STORED,
  sagaPostgres,
  sagaPostgresLatency,
  sagaPostgresStored,
  sagaPostgresTwoNodes,
} from './postgres.ts'
import { PROFILED, printProfile } from './profile.ts'
import { sagaEmbedded } from './saga-embedded.ts'
import { sagaLong, sagaParallel } from './saga-shapes.ts'
import { WAITING, waitingEmbedded, waitingSagas } from './waiting.ts'
import { xstateTransition } from './xstate-transition.ts'

const RUNS = 5
const benches: readonly Bench[] = [
  messageEmbedded,
  messageEmbeddedLatency,
  waitingEmbedded,
  sagaEmbedded,
  sagaEmbeddedLatency,
  xstateTransition,
  sagaParallel,
  sagaLong,
  waitingSagas,
  messagePostgres,
  sagaPostgres,
  sagaPostgresLatency,
  sagaPostgresTwoNodes,
  sagaPostgresStored,
  ...messageBrokers,
  rocketmqNative,
]

const HELP = `npm run bench [-- options]

  --only NAME   only this bench (may be given several times)
  --runs N      how many interleaved runs the medians are of; default ${RUNS}
  --json FILE   writes the rows: name, unit, value, limit, ratio, spread, wanted
  --waiting N   how many wait in the waiting benches; default ${WAITING}
  --stored N    how many have finished in the bench of a full store; default ${STORED}
  --profile NAME
                instead: what takes the microseconds of this bench, in coordinator and client; one of
                ${PROFILED.join(', ')}
  --list        the benches there are
  --help        this

Each value is the median of its runs; ratio is the median of value / limit of each run; spread is
(max - min) / median. The coordinator, the load and the bare loops' two sides are processes of their own.
A bare loop reads and writes plain protobuf, and keeps each transaction until it ends: what no implementation of the
protocol can do without. Rows "beside own frames" are held against a loop in Escrow's own codec, which makes ids and
texts beforehand and keeps nothing: how far a loop can go.
`

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    runs: { type: 'string', default: String(RUNS) },
    json: { type: 'string' },
    waiting: { type: 'string', default: String(WAITING) },
    stored: { type: 'string', default: String(STORED) },
    profile: { type: 'string' },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

function chosen(): readonly Bench[] {
  const names = values.only ?? benches.map(({ name }) => name)
  return names.map((name) => {
    const found = benches.find((bench) => bench.name === name)
    if (found === undefined) throw new Error(`there is no bench ${name}; --list names them`)
    return found
  })
}

function parseCount(option: string, text: string, max: number): number {
  const count = Number(text)
  if (!Number.isSafeInteger(count) || count < 1 || count > max)
    throw new Error(`${option} ${text} is not a number of 1-${max}`)
  return count
}

async function measure(): Promise<void> {
  const wanted = chosen()
  const runs = parseCount('--runs', values.runs, 1_000)
  const waiting = parseCount('--waiting', values.waiting, 100_000_000)
  const stored = parseCount('--stored', values.stored, 100_000_000)
  console.log(
    `cores: ${availableParallelism()} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB`,
  )
  console.log(`node ${process.version}; stores in ${describeDisk()}`)
  if (values.profile !== undefined) {
    await printProfile(values.profile, console.log)
    return
  }
  const rows: Row[] = []
  for (const bench of wanted) {
    console.log(`\n${bench.name}: ${bench.about}`)
    rows.push(...(await bench.run({ runs, waiting, stored, note: (line) => console.log(`  ${line}`) })))
  }
  console.log(`\n${tableLines(rows).join('\n')}`)
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, null, 2)}\n`)
}

function tidyUp(): void {
  killChildren()
  dropFolders()
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    tidyUp()
    process.exit(1)
  })
}
if (values.help) console.log(HELP)
else if (values.list) for (const { name, about } of benches) console.log(`${name.padEnd(26)}${about}`)
else {
  try {
    await measure()
  } finally {
    tidyUp()
  }
}
