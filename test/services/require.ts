import {
  afterAll,
  aroundAll,
  beforeEach,
  expect,
  type RunnerTestSuite,
  type TestContext,
  TestRunner,
} from 'vitest'
import type { Started } from './backends.ts'
import { type Catalog, catalog } from './catalog.ts'
import { recordUse } from './ledger.ts'

type Options<N extends keyof Catalog> = Parameters<Catalog[N]['start']>[0]
type Value<N extends keyof Catalog> = Awaited<ReturnType<Catalog[N]['start']>>['value']

/**
 * Starts a service that the tests of this file need, records it for the closing table, and stops it at the end.
 *
 * - At the top of a file, before any hook: `const postgres = await service('postgres')`. Where it can't be had,
 *   no test and no hook of the file runs; touching the value then throws, so databases are made in hooks.
 * - Inside one test: `const node = await service('node22', {}, context)`. Where it can't be had, that test is
 *   skipped.
 *
 * A service that is missing stands in the table as NOT RUN, with the reason and the command that installs it.
 * With `CI=true` or `TEST_REQUIRE=all` it is a failure instead. `TEST_WITHOUT=name,name` pretends that services are
 * missing.
 */
export async function service<N extends keyof Catalog>(
  name: N,
  options: Options<N> = {} as Options<N>,
  context?: TestContext,
): Promise<Value<N>> {
  const entry = catalog[name] as { install: string; start(options: unknown): Promise<Started<Value<N>>> }
  const use = { service: name, file: expect.getState().testPath ?? '', test: context?.task.fullTestName }
  const from = performance.now()
  let found: Started<Value<N>>
  try {
    if (isHidden(name)) throw new Error('TEST_WITHOUT names it')
    found = await entry.start(options)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    recordUse({
      ...use,
      // Where the test asked for one.
      backend: (options as { readonly backend?: string }).backend ?? '',
      version: '',
      startMs: 0,
      missing: firstLine(reason),
      install: entry.install,
    })
    if (isRequired())
      throw new Error(`${name} is required here: ${reason}; install it with: ${entry.install}`, {
        cause: error,
      })
    return skip(`${name} is missing: ${firstLine(reason)}; install it with: ${entry.install}`, context)
  }
  const { backend, version, insteadOf } = found
  recordUse({ ...use, backend, version, insteadOf, startMs: performance.now() - from })
  if (context === undefined) afterAll(() => found.stop())
  else context.onTestFinished(() => found.stop())
  return found.value
}

function isRequired(): boolean {
  return process.env.CI === 'true' || process.env.TEST_REQUIRE === 'all'
}

function isHidden(name: string): boolean {
  return (process.env.TEST_WITHOUT ?? '').split(',').includes(name)
}

function firstLine(text: string): string {
  return text.split('\n')[0]!
}

function skip<T>(reason: string, context: TestContext | undefined): T {
  if (context !== undefined) return context.skip(reason)
  // Skipping a test doesn't skip the file's beforeAll, which would fail on the missing service: take it away.
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads from the pattern that no fixture is asked for
  aroundAll(async (run, {}, suite) => {
    dropSuiteHooks(suite)
    await run()
  })
  beforeEach((each) => each.skip(reason))
  return new Proxy(
    {},
    {
      get(_, key) {
        // Awaiting the value asks for `then`; that isn't a use of it.
        if (key === 'then') return undefined
        throw new Error(reason)
      },
    },
  ) as T
}

function dropSuiteHooks(suite: RunnerTestSuite): void {
  const hooks = TestRunner.getSuiteHooks(suite)
  hooks.beforeAll.length = 0
  hooks.afterAll.length = 0
  for (const task of suite.tasks) if (task.type === 'suite') dropSuiteHooks(task)
}
