/** Runs what the README shows: each TypeScript snippet as a program, each command of its transcripts in a shell. */
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ordersService, paymentsService } from '../../examples/sagas/participants.ts'
import { placeOrder } from '../../examples/sagas/place-order.ts'
import { brokerAt } from '../../examples/shop/broker.ts'
import { connect, type Session } from '../../src/index.ts'
import { CoordinatorProcess, freePort } from '../harness/coordinator-process.ts'
import { Program } from '../harness/program.ts'
import { until } from '../harness/until.ts'
import { rocketmqUrl } from '../services/brokers.ts'
import { service } from '../services/require.ts'

const postgres = await service('postgres')
const root = join(import.meta.dirname, '../..')
const readme = readFileSync(join(root, 'README.md'), 'utf8')
const folder = mkdtempSync(join(tmpdir(), 'escrow-readme-'))

let coordinator: CoordinatorProcess
let databaseUrl: string
let inventory: Program
const pools: pg.Pool[] = []
const sessions: Session[] = []

beforeAll(async () => {
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  mkdirSync(join(folder, 'work'))
  writeSnippet('place-order.ts', snippet('placeOrder = defineSaga'))
  writeFileSync(join(folder, 'slip.json'), blocks('json').join())
  const config = writeSnippet('escrow.config.ts', snippet("import { defineConfig, memory } from 'escrow'"))
  coordinator = await CoordinatorProcess.start({ config })
  databaseUrl = await postgres.database('readme')
  const pool = new pg.Pool({ connectionString: databaseUrl })
  await pool.query(`
    create table orders (id text, cents int);
    create table reservations (id text);
    create table stock (id text, sku text)`)
  await pool.end()
  // Whom the saga calls beside the participant that the README shows.
  for (const service of [paymentsService, ordersService]) {
    pools.push(new pg.Pool({ connectionString: await postgres.database(service.name.toLowerCase()) }))
    sessions.push(await (await service(pools.at(-1) as pg.Pool)).connect(coordinator.grpc))
  }
  inventory = new Program({
    file: writeSnippet('steps.ts', local(snippet('defineStep')), "\nconsole.log('connected')\n"),
    env: { DATABASE_URL: databaseUrl },
  })
  await inventory.said(/connected/)
})

afterAll(async () => {
  await inventory?.kill()
  for (const session of sessions) await session.close()
  for (const pool of pools) await pool.end()
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
  const inPlace = code
    .replaceAll(`from 'escrow'`, `from '${join(root, 'src/index.ts')}'`)
    .replaceAll(/from 'escrow\/([a-z-]+)'/g, (_, broker) => `from '${join(root, `src/broker/${broker}.ts`)}'`)
  writeFileSync(path, inPlace + more)
  return path
}

test('every snippet of the README is run by a test of this file', () => {
  const known = [
    '{ defineConfig, memory }',
    'cluster: {',
    'session.sendInTransaction',
    "'order-placed': (message)",
    'createCoordinator',
  ]
  known.push("'escrow/kafka'", 'rocketmqNative', 'enqueue } from')
  known.push('placeOrder = defineSaga', 'defineStep', 'startSaga', 'definitionOf', 'migrateSaga')
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
    file: writeSnippet('inventory.ts', local(snippet("'order-placed': (message)"))),
    env,
  })
  await until('the handler is known', async () => {
    const { stdout } = await run(
      `buf curl --protocol grpc --http2-prior-knowledge http://localhost:7411/escrow.v1.CoordinatorService/Prepare -d '{"checker":"none","messages":[{"destination":"inventory/order-placed","body":""}]}' 2>&1 || true`,
    )
    return stdout.includes('unknownChecker')
  })
  const sender = new Program({
    file: writeSnippet('orders.ts', local(snippet('session.sendInTransaction')), '\nprocess.exit(0)\n'),
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

test('the configuration of brokers is one: each is refused by name when it can’t be reached, and nothing waits for it', async () => {
  // Where nobody listens.
  const hosts = /(kafka|nats)-\d|rocketmq(?=:8081)|(?<=@)(rabbitmq|redis|db\.internal)/g
  const config = writeSnippet('brokers.config.ts', snippet("'escrow/kafka'").replaceAll(hosts, '127.0.0.9'))
  await using broken = await CoordinatorProcess.start({ config })
  for (const broker of ['kafka', 'rocketmq', 'rabbitmq', 'redis', 'nats', 'queue']) {
    const request = { checker: 'none', messages: [{ destination: `${broker}:order-placed`, body: '' }] }
    await broken.ask('Register', { service: 'shop', checkers: ['none'] })
    await expect(broken.ask('Prepare', request)).rejects.toMatchObject({ code: 'brokerUnavailable' })
  }
})

test('a message that RocketMQ holds is delivered with its order', async (context) => {
  const server = await service('rocketmq', {}, context)
  await server.createTopic('order-placed', 'TRANSACTION')
  const { host, port, credentials } = server
  const given = `'${host}:${port}', credentials: ${JSON.stringify(credentials)}`
  const file = writeSnippet(
    'native.ts',
    snippet('rocketmqNative').replace("'rocketmq:8081'", given),
    '\nprocess.exit(0)\n',
  )
  const sender = new Program({ file, env: { DATABASE_URL: databaseUrl } })
  expect((await sender.ended).code, sender.output).toBe(0)
  const broker = await brokerAt('rocketmq', rocketmqUrl(server))
  const got: string[] = []
  await broker.subscribe({ topic: 'order-placed', group: 'readme' }, async ({ body }) => {
    got.push(Buffer.from(body).toString())
  })
  await until('it is delivered', () => got.length > 0)
  await broker.close()
  expect(got).toEqual([JSON.stringify({ id: 'o-7', cents: 4200 })])
})

test('a message is enqueued with its order', async () => {
  const broker = await brokerAt('postgres', databaseUrl)
  await broker.register('order-placed', AbortSignal.timeout(10_000))
  const sender = new Program({
    file: writeSnippet('enqueue.ts', snippet('enqueue } from')),
    env: { DATABASE_URL: databaseUrl },
  })
  expect((await sender.ended).code, sender.output).toBe(0)
  const got: string[] = []
  await broker.subscribe({ topic: 'order-placed', group: 'readme' }, async ({ body }) => {
    got.push(Buffer.from(body).toString())
  })
  await until('it is received', () => got.length > 0)
  await broker.close()
  expect(got).toEqual([JSON.stringify({ id: 'o-8' })])
})

test('the saga is that of examples/sagas, and its diagram is the one that is shown', () => {
  const example = readFileSync(join(root, 'examples/sagas/place-order.ts'), 'utf8')
  expect(snippet('placeOrder = defineSaga')).toBe(example.replace("'../../src/index.ts'", "'escrow'"))
  expect(blocks('mermaid')).toEqual([expect.any(String), placeOrder.diagram()])
})

test('the diagram of the saga of npm start is what the command beside it prints', async () => {
  const [, command] = /`npm run -s escrow -- (saga diagram[^`]+)`/.exec(readme) ?? []
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [join(root, 'src/cli/escrow.ts'), ...(command ?? '').split(/\s+/)],
    { cwd: root },
  )
  expect(stdout).toBe(blocks('mermaid')[0])
})

test('a saga is run to its end, and another one cancelled', async () => {
  const code = snippet('startSaga')
  const told = `
console.log((await session.waitForSaga({ id: other.id })).status)
process.exit(0)
`
  const file = writeSnippet('order-desk.ts', local(code), told)
  const { stdout } = await promisify(execFile)(process.execPath, [file])
  expect(stdout.trim().split('\n')).toEqual(['completed p-o-7', 'place-order o-8', 'compensated'])
})

test('a machine by hand is a saga like any other', async () => {
  const file = writeSnippet('layaway.ts', snippet('definitionOf'), '\nconsole.log(layaway.diagram())\n')
  const { stdout } = await promisify(execFile)(process.execPath, [file])
  expect(stdout).toMatch(/^stateDiagram-v2\n/)
  expect(stdout).toContain('reserving (inventory/reserve, undone by inventory/reserve)')
})

test('a state is migrated from one version to the next, as the README and the docstring show it', async () => {
  const source = readFileSync(join(root, 'src/core/saga/migrate.ts'), 'utf8')
  const docstring = /```ts\n(.*?)```/s.exec(source)?.[1]?.replaceAll(/^ \* ?/gm, '') ?? ''
  for (const [name, code] of [
    ['readme', snippet('migrateSaga')],
    ['docstring', docstring],
  ] as const) {
    const told = code.replace(/^migrateSaga\(.*\)/m, (call) => `console.log(JSON.stringify(${call}))`)
    const { stdout } = await promisify(execFile)(process.execPath, [writeSnippet(`migrate-${name}.ts`, told)])
    expect(stdout.trim()).toBe('{"value":"reserve"}')
  }
})

test('the command line takes the routing slip, and draws the saga of the configuration', async () => {
  const commands = Array.from(
    readme.matchAll(/`npx (escrow saga [^`]+)`/g),
    ([, command]) => command as string,
  )
  expect(commands.map((command) => command.split(' ')[2])).toEqual(['diagram', 'slip'])
  const [drawn, ran] = await Promise.all(
    commands.map((command, at) =>
      run(
        `${process.execPath} ${join(root, 'src/cli/escrow.ts')} ${command.slice('escrow '.length)}${at === 1 ? ` --address ${coordinator.grpc}` : ''}`,
      ),
    ),
  )
  expect(drawn?.stdout).toBe(placeOrder.diagram())
  expect(ran?.stdout).toMatch(/^status +completed$/m)
})

test('a coordinator runs on a PostgreSQL, and what it knows is found by SQL', async () => {
  const url = await postgres.database('readme_store')
  const ports = { grpc: await freePort(), http: await freePort() }
  const code = snippet('cluster: {')
    .replace('postgres://escrow:secret@db.internal/escrow', url)
    .replace('escrow-1.internal:7411', `127.0.0.1:${ports.grpc}`)
  const node = new Program({
    file: 'src/cli/escrow.ts',
    args: [
      ...['serve', '--config', writeSnippet('cluster.config.ts', code)],
      ...['--grpc-port', String(ports.grpc), '--http-port', String(ports.http)],
    ],
  })
  await node.said(/escrow .* is ready: .*/)
  const session = await connect(`127.0.0.1:${ports.grpc}`, { service: 'orders' })
  await session.registerChecker('orders', () => 'unknown')
  await session.registerHandlers({ take() {} })
  const messages = [{ destination: 'orders/take', body: Buffer.from('{}') }]
  const { id } = await session.prepare({ checker: 'orders', messages })
  const pool = new pg.Pool({ connectionString: url })
  const columns = Array.from(
    readme.matchAll(/^\| ((?:`[a-z_]+`(?:, )?)+) \|/gm),
    ([, names]) => names as string,
  )
    .flatMap((names) => names.replaceAll('`', '').split(', '))
    .filter((name) => !name.includes(':'))
  expect(columns).toContain('business_key')
  await until('the row is there', async () => {
    const { rows } = await pool.query(`select ${columns.join(', ')} from escrow.transactions`)
    return rows.length === 1 && rows[0]
  }).then((row) =>
    expect(row).toMatchObject({ namespace: 'default', id, kind: 'message', status: 'prepared' }),
  )
  expect((await pool.query(blocks('sql').join())).rows).toEqual([])
  await pool.end()
  await session.close()
  await node.kill()
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
  return await promisify(execFile)('bash', ['-c', local(command)], {
    cwd: folder,
    env: { ...process.env, PATH },
  })
}

/**
 * Without what differs from run to run or from version to version: times, ids that were minted, hashes, and the state of a saga
 * that has ended, which is told to whoever waits for that end and not kept for whoever comes a moment later.
 */
function timeless(text: string): string {
  return text
    .trim()
    .replaceAll(/"\d{13}"/g, '"TIME"')
    .replaceAll('"state":"\\"completed\\"",', '')
    .replaceAll(/"hash":"[0-9a-f]+"/g, '"hash":"HASH"')
    .replaceAll(/"[0-9a-z]{8}-[0-9a-z]+-[0-9a-z]+(\.\d+)?"/g, '"EXECUTION$1"')
}
