/**
 * `npm test [-- vitest arguments]`: runs the tests, then says which services took part and which tests did not
 * run, and ends with the line `N passed, N failed`. Exits non-zero unless something ran and nothing failed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { sweepPostgres } from '../examples/shop/embedded-postgres.ts'
import { closeEngine } from './services/engine.ts'
import { closeRun, openRun, readTotals, readUses, writeServices } from './services/ledger.ts'
import { serviceRows, skippedLines, tableLines } from './services/table.ts'

const root = join(import.meta.dirname, '..')

async function runVitest(args: readonly string[]): Promise<number> {
  const bin = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs')
  const fixed = ['run', '--config', 'test/vitest.config.ts', '--root', '.']
  // No stdin: without a terminal nothing may wait for a key.
  const child = spawn(process.execPath, [bin, ...fixed, ...args], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  const [code] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
  return code ?? 1
}

openRun()
// What an earlier run left behind when it was killed, and after ours what a killed worker leaves.
sweepPostgres()
const code = await runVitest(process.argv.slice(2))
const totals = readTotals()
const uses = readUses()
const rows = serviceRows(uses, totals)
writeServices(rows)
sweepPostgres()
const wasUsed = uses.some(({ backend, missing }) => backend === 'docker' && missing === undefined)
await closeEngine({ wasUsed })
closeRun()
for (const line of [...tableLines(rows), ...skippedLines(totals)]) console.log(line)

const passed = totals?.passed ?? 0
let failed = totals?.failed ?? 0
if (failed === 0 && (code !== 0 || passed === 0)) {
  // The runner itself failed, or nothing ran at all: neither is a success.
  console.log(passed === 0 ? 'No test ran.' : `The test runner ended with status ${code}.`)
  failed = 1
}
process.exitCode = failed === 0 ? 0 : 1
console.log(`${passed} passed, ${failed} failed`)
