import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'

const resultsFolder = join(import.meta.dirname, '../results')
const variable = 'ESCROW_TEST_RUN_FOLDER'
const runPrefix = 'escrow-test-run-'

/** Makes the folder of one run, told to the workers by the environment, so that two runs at once don't mix. */
export function openRun(): void {
  process.env[variable] = mkdtempSync(join(tmpdir(), `${runPrefix}${process.pid}-`))
}

/** The process that this run is named by: the one that opened it, or this one where a test is run by vitest alone. */
export function runPid(): number {
  const [pid] = basename(process.env[variable] ?? '')
    .replace(runPrefix, '')
    .split('-')
  return Number(pid) || process.pid
}

/** Removes the folder of the run; what is to stay was written to test/results. */
export function closeRun(): void {
  rmSync(runFolder(), { recursive: true, force: true })
}

/** The folder of this run. A test file that is run by vitest alone, without `npm test`, shares one. */
function runFolder(): string {
  const folder = process.env[variable] ?? resultsFolder
  mkdirSync(folder, { recursive: true })
  return folder
}

const usesFile = () => join(runFolder(), 'uses.jsonl')
const totalsFile = () => join(runFolder(), 'totals.json')

/** One file's or test's use of a service, written by the worker that runs it. */
export interface ServiceUse {
  readonly service: string
  /** The test file, as an absolute path. */
  readonly file: string
  /** The one test that asked, when it wasn't the whole file. */
  readonly test?: string | undefined
  readonly backend: string
  readonly version: string
  /** Milliseconds until it answered its first request. */
  readonly startMs: number
  /** Why it didn't run where it was looked for first; absent or empty when it did. */
  readonly insteadOf?: string | undefined
  /** Why it was not there. Absent when it was. */
  readonly missing?: string | undefined
  /** The command that installs it. */
  readonly install?: string | undefined
}

/** How a run ended, counted from the tests themselves. */
export interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: readonly { readonly file: string; readonly test: string; readonly note: string }[]
  /** Tests that ran (passed or failed), by absolute file name. */
  readonly ranByFile: Readonly<Record<string, number>>
}

/** Appends one use. A line written with O_APPEND doesn't tear between workers. */
export function recordUse(use: ServiceUse): void {
  appendFileSync(usesFile(), `${JSON.stringify(use)}\n`)
}

/** Every use of this run. */
export function readUses(): ServiceUse[] {
  if (!existsSync(usesFile())) return []
  const lines = readFileSync(usesFile(), 'utf8').split('\n')
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as ServiceUse)
}

/** Leaves the totals for the process that started the runner. */
export function writeTotals(totals: Totals): void {
  writeFileSync(totalsFile(), `${JSON.stringify(totals, null, 2)}\n`)
}

/** The totals of this run, or undefined when the test runner ended before it could write them. */
export function readTotals(): Totals | undefined {
  if (!existsSync(totalsFile())) return undefined
  return JSON.parse(readFileSync(totalsFile(), 'utf8')) as Totals
}

/** One row of the closing table. */
export interface ServiceRow {
  readonly service: string
  readonly status: 'ran' | 'NOT RUN'
  readonly backend: string
  readonly version: string
  /** Median of the starts in this run; null when it never started. */
  readonly startMs: number | null
  readonly tests: number
  readonly reason: string
  readonly install: string
}

/** Leaves the closing table as JSON in test/results/services.json. */
export function writeServices(rows: readonly ServiceRow[]): void {
  mkdirSync(resultsFolder, { recursive: true })
  writeFileSync(join(resultsFolder, 'services.json'), `${JSON.stringify(rows, null, 2)}\n`)
}
