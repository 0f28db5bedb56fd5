import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { catalog } from './catalog.ts'
import { closeRun, openRun, readTotals, readUses } from './ledger.ts'
import { serviceRows } from './table.ts'

const root = join(import.meta.dirname, '../..')
const variable = 'ESCROW_TEST_RUN_FOLDER'
const ours = process.env[variable]

// The run that is inside this test writes into a folder of its own.
beforeEach(openRun)
afterEach(() => {
  closeRun()
  if (ours === undefined) delete process.env[variable]
  else process.env[variable] = ours
})

function run(environment: Readonly<Record<string, string>>, ...options: readonly string[]): number | null {
  const bin = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs')
  const inherited = Object.entries(process.env).filter(([name]) => !/^(VITEST|CI$|TEST)/.test(name))
  const env = { ...Object.fromEntries(inherited), ...environment }
  return spawnSync(process.execPath, [bin, 'run', ...options], { cwd: root, env, encoding: 'utf8' }).status
}

const runFixtures = (environment: Readonly<Record<string, string>>): number | null =>
  run(environment, '--config', 'test/services/fixtures/vitest.config.ts')

test('what a missing service keeps from running is skipped with its reason, hooks included', () => {
  expect(runFixtures({ TEST_WITHOUT: 'node22' })).toBe(0)
  const totals = readTotals()
  expect(totals).toMatchObject({ passed: 1, failed: 0 })
  const reason = 'node22 is missing: TEST_WITHOUT names it; install it with: npm run services:setup'
  expect(totals?.skipped.map(({ test, note }) => [test, note]).sort()).toEqual([
    ['first', reason],
    ['inside > second', reason],
    ['needs it', reason],
  ])
  expect(serviceRows(readUses(), totals)).toMatchObject([
    { service: 'node22', status: 'NOT RUN', tests: 0, reason: 'TEST_WITHOUT names it' },
  ])
})

test.each([{ CI: 'true' }, { TEST_REQUIRE: 'all' }])(
  'a missing service is a failure with %o',
  (environment) => {
    expect(runFixtures({ TEST_WITHOUT: 'node22', ...environment })).not.toBe(0)
    expect(readTotals()).toMatchObject({ passed: 1, failed: 2 })
  },
)

test('no file fails to be read where every service is missing', () => {
  const files = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .map((file) => join('test', file))
    .filter((file) => file.endsWith('.test.ts') && !file.includes('fixtures'))
    .filter((file) => /^(?!import).*await service\(/m.test(readFileSync(join(root, file), 'utf8')))
  expect(files.length).toBeGreaterThan(30)
  const nothing = ['--testNamePattern', '$^', '--passWithNoTests']
  const environment = { TEST_WITHOUT: Object.keys(catalog).join(',') }
  expect(run(environment, '--config', 'test/vitest.config.ts', ...nothing, ...files)).toBe(0)
}, 240_000)
