/**
 * `npm run bench [-- options]`: measures the coordinator and prints a table. It asserts nothing: its status is 0 unless
 * something breaks.
 */
import { writeFileSync } from 'node:fs'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import type { Bench } from './bench.ts'
import { killChildren } from './child.ts'
import { type Row, tableLines } from './figures.ts'
import { describeDisk, dropFolders } from './folders.ts'
import { messageEmbedded } from './message-embedded.ts'
import { messageEmbeddedLatency } from './message-embedded-latency.ts'
import { printProfile } from './profile.ts'
import { waitingEmbedded } from './waiting-embedded.ts'

const RUNS = 5
const benches: readonly Bench[] = [messageEmbedded, messageEmbeddedLatency, waitingEmbedded]

const HELP = `npm run bench [-- options]

  --only NAME   only this bench (may be given several times)
  --runs N      how many interleaved runs the medians are of; default ${RUNS}
  --json FILE   writes the rows: name, unit, value, limit, ratio, spread, wanted
  --profile     instead: what takes the microseconds of message-embedded, in coordinator and client
  --list        the benches there are
  --help        this

Each value is the median of its runs; ratio is the median of value / limit of each run; spread is
(max - min) / median. The coordinator, the load and the bare loop's two sides are processes of their own.
`

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    runs: { type: 'string', default: String(RUNS) },
    json: { type: 'string' },
    profile: { type: 'boolean', default: false },
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

function parseRuns(text: string): number {
  const runs = Number(text)
  if (!Number.isSafeInteger(runs) || runs < 1 || runs > 1_000)
    throw new Error(`--runs ${text} is not a number of 1-1000`)
  return runs
}

async function measure(): Promise<void> {
  const wanted = chosen()
  const runs = parseRuns(values.runs)
  console.log(
    `cores: ${availableParallelism()} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB`,
  )
  console.log(`node ${process.version}; stores in ${describeDisk()}`)
  if (values.profile) {
    await printProfile(console.log)
    return
  }
  const rows: Row[] = []
  for (const bench of wanted) {
    console.log(`\n${bench.name}: ${bench.about}`)
    rows.push(...(await bench.run({ runs, note: (line) => console.log(`  ${line}`) })))
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
