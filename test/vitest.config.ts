import { join } from 'node:path'
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config'

const root = join(import.meta.dirname, '..')

/**
 * Folders below test/ that start real processes, kill them, or run for long. They come last and one file at a
 * time, so that a mistake in a fast test is known in seconds and a crash test isn't disturbed by a neighbour.
 */
const slowFolders = ['broker', 'recovery', 'faults', 'pack', 'examples', 'simulation']
const slow = slowFolders.map((folder) => `test/${folder}/**/*.test.ts`)

/** How long anything is waited for where nothing is said of time: many times what a busy machine makes of it. */
const patienceMs = 20_000

interface Group {
  readonly name: string
  readonly order: number
  readonly workers: number
  readonly timeoutMs: number
  readonly include: string[]
  readonly exclude: string[]
}

function project(group: Group): TestProjectInlineConfiguration {
  return {
    root,
    test: {
      name: group.name,
      include: group.include,
      exclude: group.exclude,
      // A process for each file: what a test does to signals, globals or native handles ends with it.
      pool: 'forks',
      isolate: true,
      maxWorkers: group.workers,
      sequence: { groupOrder: group.order },
      testTimeout: group.timeoutMs,
      hookTimeout: group.timeoutMs,
      globals: false,
      expect: { poll: { timeout: patienceMs } },
    },
  }
}

export default defineConfig({
  root,
  test: {
    teardownTimeout: 10_000,
    reporters: ['default', join(import.meta.dirname, 'services/reporter.ts')],
    projects: [
      project({
        name: 'fast',
        order: 0,
        workers: 2,
        timeoutMs: 60_000,
        include: ['test/**/*.test.ts'],
        exclude: slow,
      }),
      project({ name: 'slow', order: 1, workers: 1, timeoutMs: 300_000, include: slow, exclude: [] }),
    ],
  },
})
