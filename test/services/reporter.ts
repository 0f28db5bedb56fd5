import type { Reporter, SerializedError, TestModule } from 'vitest/node'
import { type Totals, writeTotals } from './ledger.ts'

/**
 * Counts what really ran. A file that fails to load, a hook that throws and an error outside any test have no
 * test that failed, so each of them counts as one failure of its own.
 */
export default class TotalsReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    let passed = 0
    let failed = unhandled.length
    const skipped: Totals['skipped'][number][] = []
    const ranByFile: Record<string, number> = {}
    for (const module of modules) {
      const before = passed + failed
      for (const test of module.children.allTests()) {
        const result = test.result()
        if (result.state === 'passed') passed += 1
        else if (result.state === 'skipped')
          skipped.push({
            file: module.relativeModuleId,
            test: test.fullName,
            note: result.note ?? reasonOf(module),
          })
        else failed += 1
      }
      ranByFile[module.moduleId] = passed + failed - before
      failed += module.errors().length
      for (const suite of module.children.allSuites()) failed += suite.errors().length
    }
    writeTotals({ passed, failed, skipped, ranByFile })
  }
}

/** A test without a reason of its own was left out because a hook before it failed, or by the arguments of the run. */
function reasonOf(module: TestModule): string {
  const suites = [...module.children.allSuites()]
  const hookFailed = module.errors().length > 0 || suites.some((suite) => suite.errors().length > 0)
  return hookFailed ? 'the setup before it failed' : 'no reason given'
}
