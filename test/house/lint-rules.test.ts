/** The lint rules against ambient clocks, randomness, scheduling and environment, each seen to fire. */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { root } from './source-files.ts'

const globals = 'lint/style/noRestrictedGlobals'
const modules = 'lint/style/noRestrictedImports'
const environment = 'lint/style/noProcessEnv'
const plugin = 'plugin'

/** What is forbidden where the clock, randomness and scheduling are arguments, and by which rule. */
const forbidden: Readonly<Record<string, readonly [rule: string, code: string]>> = {
  'Date.now': [globals, 'export const x = Date.now()'],
  'new Date': [globals, 'export const x = new Date()'],
  performance: [globals, 'export const x = performance.now()'],
  'perf_hooks import': [
    modules,
    "import { performance } from 'node:perf_hooks'\nexport const x = performance.now()",
  ],
  setTimeout: [globals, 'export const x = setTimeout(() => {}, 1)'],
  setInterval: [globals, 'export const x = setInterval(() => {}, 1)'],
  setImmediate: [globals, 'export const x = setImmediate(() => {})'],
  globalThis: [globals, 'export const x = globalThis.setTimeout(() => {}, 1)'],
  'timers import': [
    modules,
    "import { setTimeout as wait } from 'node:timers/promises'\nexport const x = wait",
  ],
  'Math.random': [plugin, 'export const x = Math.random()'],
  'Math["random"]': [plugin, "export const x = Math['random']()"],
  'destructured Math': [plugin, 'const { random } = Math\nexport const x = random()'],
  'global crypto': [globals, 'export const x = crypto.randomUUID()'],
  randomUUID: [modules, "import { randomUUID } from 'node:crypto'\nexport const x = randomUUID()"],
  randomBytes: [modules, "import { randomBytes } from 'node:crypto'\nexport const x = randomBytes(1)"],
  'crypto default import': [modules, "import c from 'node:crypto'\nexport const x = c.randomBytes(1)"],
  'crypto namespace import': [plugin, "import * as c from 'node:crypto'\nexport const x = c.randomBytes(1)"],
  'process.hrtime': [plugin, 'export const x = process.hrtime.bigint()'],
}

/** What is forbidden everywhere in src but in config.ts and cli. */
const environmentReads: Readonly<Record<string, readonly [rule: string, code: string]>> = {
  'process.env': [environment, 'export const x = process.env.HOME'],
  'destructured process': [plugin, 'const { env } = process\nexport const x = env.HOME'],
  'destructured process.env': [environment, 'const { HOME } = process.env\nexport const x = HOME'],
}

const pure = ['core', 'engine', 'participant', 'store', 'store/embedded']
const folder = mkdtempSync(join(tmpdir(), 'escrow-lint-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const expected = new Map<string, { rule: string | undefined; title: string }>()

function snippet(path: string, title: string, code: string, rule?: string): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true })
  writeFileSync(join(folder, path), `${code}\n`)
  expected.set(path, { rule, title })
}

for (const [index, [title, [rule, code]]] of Object.entries(forbidden).entries()) {
  for (const part of pure) snippet(`src/${part}/forbidden-${index}.ts`, `${title} in src/${part}`, code, rule)
  snippet(`src/rpc/allowed-${index}.ts`, `${title} in src/rpc`, code)
}
for (const [index, [title, [rule, code]]] of Object.entries(environmentReads).entries()) {
  for (const part of [...pure, 'rpc', 'wire'])
    snippet(`src/${part}/environment-${index}.ts`, `${title} in src/${part}`, code, rule)
  snippet(`src/cli/environment-${index}.ts`, `${title} in src/cli`, code)
}
snippet('src/config.ts', 'process.env in src/config.ts', 'export const x = process.env.HOME')
snippet(
  'src/core/fine.ts',
  'what is passed in',
  'export const x = (r: { random(): number }) => r.random() + Math.floor(1)',
)
snippet(
  'src/core/hash.ts',
  'hashing',
  "import { createHash } from 'node:crypto'\nexport const x = createHash('sha256')",
)

interface Report {
  readonly diagnostics: readonly {
    category: string
    severity: string
    location: { path: string | { file: string } }
  }[]
}

function lint(): Map<string, string[]> {
  cpSync(join(root, '.biome.json'), join(folder, '.biome.json'))
  cpSync(join(root, 'test/house'), join(folder, 'test/house'), { recursive: true })
  const bin = join(root, 'node_modules/@biomejs/biome/bin/biome')
  const args = ['lint', '--reporter=json', '--max-diagnostics=none', 'src']
  const result = spawnSync(process.execPath, [bin, ...args], { cwd: folder, encoding: 'utf8' })
  const report = JSON.parse(result.stdout) as Report
  const byFile = new Map<string, string[]>()
  for (const { category, severity, location } of report.diagnostics) {
    const path = typeof location.path === 'string' ? location.path : location.path.file
    if (severity === 'error') byFile.set(path, [...(byFile.get(path) ?? []), category])
  }
  return byFile
}

const found = lint()

test.each(
  [...expected].filter(([, { rule }]) => rule !== undefined).map(([path, each]) => ({ path, ...each })),
)('forbidden: $title', ({ path, rule }) => expect(found.get(path)).toContain(rule))

test.each(
  [...expected].filter(([, { rule }]) => rule === undefined).map(([path, each]) => ({ path, ...each })),
)('allowed: $title', ({ path }) => expect(found.get(path)).toBeUndefined())
