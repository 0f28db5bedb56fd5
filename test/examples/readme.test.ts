/** Runs what the README shows: each TypeScript snippet as a program, each command of its transcripts in a shell. */
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { Program } from '../harness/program.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'

const postgres = await service('postgres')
const root = join(import.meta.dirname, '../..')
const readme = readFileSync(join(root, 'README.md'), 'utf8')
const folder = mkdtempSync(join(tmpdir(), 'escrow-readme-'))

let coordinator: CoordinatorProcess
let databaseUrl: string

beforeAll(async () => {
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  mkdirSync(join(folder, 'work'))
  const config = writeSnippet('escrow.config.ts', snippet("import { defineConfig, memory } from 'escrow'"))
  coordinator = await CoordinatorProcess.start({ config })
  databaseUrl = await postgres.database('readme')
  const pool = new pg.Pool({ connectionString: databaseUrl })
  await pool.query('create table orders (id text, cents int); create table reservations (id text)')
  await pool.end()
})

afterAll(async () => {
  await coordinator?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

/** The fenced blocks of a language, in order. */
function blocks(language: string): string[] {
  return Array.from(
    readme.matchAll(new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 'gs')),
    ([, code]) => code as string,
  )
}

function snippet(holding: string): string {
  const found = blocks('ts').filter((code) => code.includes(holding))
  expect(found, `snippets with ${holding}`).toHaveLength(1)
  return found[0] as string
}

function local(text: string): string {
  return text
    .replaceAll('localhost:7411', coordinator.grpc)
    .replaceAll('localhost:7410', `127.0.0.1:${coordinator.httpPort}`)
}

function writeSnippet(name: string, code: string, more = ''): string {
  const path = join(folder, name)
  writeFileSync(path, code.replaceAll(`from 'escrow'`, `from '${join(root, 'src/index.ts')}'`) + more)
  return path
}

test('every snippet of the README is run by a test of this file', () => {
  const known = ['defineConfig', 'sendInTransaction', "participant('inventory'", 'createCoordinator']
  for (const code of blocks('ts'))
    expect(
      known.some((word) => code.includes(word)),
      code,
    ).toBe(true)
  expect(blocks('ts')).toHaveLength(known.length)
})

test('an order is placed by one snippet, and taken once by the other', async () => {
  const env = { DATABASE_URL: databaseUrl }
  const receiver = new Program({
    file: writeSnippet('inventory.ts', local(snippet("participant('inventory'"))),
    env,
  })
  await until('the handler is known', async () => {
    const { stdout } = await run(
      `buf curl --protocol grpc --http2-prior-knowledge http://localhost:7411/escrow.v1.CoordinatorService/Prepare -d '{"checker":"none","messages":[{"destination":"inventory/order-placed","body":""}]}' 2>&1 || true`,
    )
    return stdout.includes('unknownChecker')
  })
  const sender = new Program({
    file: writeSnippet('orders.ts', local(snippet('sendInTransaction')), '\nprocess.exit(0)\n'),
    env,
  })
  expect((await sender.ended).code).toBe(0)
  const pool = new pg.Pool({ connectionString: databaseUrl })
  const reserved = await until('it is reserved', async () => {
    const { rows } = await pool.query('select id from reservations')
    return rows.length > 0 && rows
  })
  expect(reserved).toEqual([{ id: 'o-1' }])
  expect((await pool.query('select id, cents from orders')).rows).toEqual([{ id: 'o-1', cents: 4200 }])
  await pool.end()
  await receiver.kill()
})

test('a coordinator runs as a library, without a server', async () => {
  const code = snippet('createCoordinator').replace('./escrow-data', join(folder, 'library'))
  const told =
    '\nconsole.log(await session.list({}).then(({ transactions }) => transactions.length))\nawait session.close()\nawait coordinator.stop()\n'
  const { stdout } = await promisify(execFile)(process.execPath, [writeSnippet('library.ts', code, told)])
  expect(stdout.trim()).toBe('0')
})

test('the transcripts by curl and by buf curl say what the coordinator says', async () => {
  const transcripts = blocks('console').flatMap((block) => block.split(/^\$ /m).slice(1))
  expect(transcripts.length).toBeGreaterThanOrEqual(7)
  for (const transcript of transcripts) {
    const [command = '', ...expected] = transcript.trimEnd().split('\n')
    const { stdout } = await run(command)
    expect(timeless(stdout), command).toBe(timeless(expected.join('\n')))
  }
})

async function run(command: string): Promise<{ stdout: string }> {
  const PATH = `${join(root, 'node_modules/.bin')}${delimiter}${process.env.PATH}`
  return await promisify(execFile)('bash', ['-c', local(command)], { env: { ...process.env, PATH } })
}

/** Without what differs from run to run: times, and ids that were minted. */
function timeless(text: string): string {
  return text
    .trim()
    .replaceAll(/"\d{13}"/g, '"TIME"')
    .replaceAll(/"[0-9a-z]{8}-[0-9a-z]+-[0-9a-z]+(\.\d+)?"/g, '"EXECUTION$1"')
}
