import type { Row } from './figures.ts'

/** How a bench is run. */
export interface BenchOptions {
  readonly runs: number
  /** How many transactions wait, where that is what is measured. */
  readonly waiting: number
  /** How many have finished, where a full store is measured. */
  readonly stored: number
  /** Tells what is going on. */
  readonly note: (line: string) => void
}

/** Something that can be measured by name. */
export interface Bench {
  readonly name: string
  /** What it measures, in one sentence. */
  readonly about: string
  run(options: BenchOptions): Promise<readonly Row[]>
}
