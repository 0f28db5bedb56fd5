/** The main job as a user runs it: real processes, real databases, real kills. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { generateOrders } from '../../examples/shop/generate-orders.ts'
import { parseOrders } from '../../examples/shop/orders.ts'
import {
  expectedOutcome,
  type Reconciliation,
  reconcile,
  type ShopDatabases,
} from '../../examples/shop/reconciliation.ts'
import { service } from '../services/require.ts'

const main = join(import.meta.dirname, '../../examples/shop/main.ts')
const folder = fs.mkdtempSync(join(tmpdir(), 'shop-test-'))
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

const postgres = await service('postgres')
const small = ordersFile(300)
const smallInput = parseOrders(fs.readFileSync(small, 'utf8'))

function ordersFile(count: number): string {
  const file = join(folder, `${count}.jsonl`)
  fs.writeFileSync(file, `${generateOrders(count).join('\n')}\n`)
  return file
}

interface Run {
  readonly child: ChildProcess
  /** What its own children inherit, to find them by. */
  readonly mark: string
  output(): string
}

const running = new Set<ChildProcess>()
// A test that fails must not leave a shop behind.
afterEach(() => {
  for (const child of running) child.kill('SIGKILL')
  running.clear()
})

function start(args: readonly string[], options: { env?: NodeJS.ProcessEnv; input?: string } = {}): Run {
  const mark = randomUUID()
  const child = spawn(process.execPath, [main, ...args], {
    env: { ...process.env, DATABASE_URL: undefined, ...options.env, SHOP_TEST_MARK: mark },
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  })
  running.add(child)
  child.stdin?.end(options.input)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (output += chunk))
  return { child, mark, output: () => output }
}

async function ended({ child }: Run): Promise<number | string> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
  return child.exitCode ?? child.signalCode!
}

async function until(what: string, holds: () => boolean, timeoutMs = 60_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(25)
  }
}

/** Processes that a run started and that still live, its PostgreSQL included. */
function descendants({ child, mark }: Run): string[] {
  const read = (pid: string, file: string) => {
    try {
      return fs.readFileSync(`/proc/${pid}/${file}`, 'utf8')
    } catch {
      return ''
    }
  }
  return fs
    .readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== child.pid)
    .filter(
      (pid) =>
        read(pid, 'environ').includes(mark) ||
        read(pid, 'cmdline').includes(`escrow-postgres-run-${child.pid}-`),
    )
    .map((pid) => read(pid, 'cmdline').replaceAll('\0', ' ') || pid)
}

const row = (name: string, ...cells: (string | number | RegExp)[]) =>
  new RegExp(
    `^${[name, ...cells.map((cell) => (cell instanceof RegExp ? cell.source : cell))].join(' +')}$`,
    'm',
  )

describe('a run with DATABASE_URL', () => {
  const { placed, refused } = expectedOutcome(smallInput)
  const run = () => start(['--once', '--orders', small], { env: { DATABASE_URL: postgres.url } })

  // The first run; what it leaves in the databases is what the tests below look at.
  let first: Run
  beforeAll(async () => {
    first = run()
    await ended(first)
  })

  test('balances, says how the transactions ended, and can be repeated on the same server', async () => {
    for (const shop of [first, run()]) {
      expect(await ended(shop), shop.output()).toBe(0)
      const output = shop.output()
      expect(placed.length).toBeGreaterThan(200)
      expect(refused.length).toBeGreaterThan(5)
      expect(output).toMatch(row('committed', placed.length))
      expect(output).toMatch(row('rolled back', /\d+/))
      expect(output).toMatch(row('of these settled by check-back', /\d+/))
      expect(output).toMatch(row('parked', 0))
      expect(output).toMatch(row('orders placed', placed.length, placed.length, 'balances'))
      expect(output).toMatch(row('orders refused', refused.length, refused.length, 'balances'))
      expect(output).toMatch(row('rejected lines', 4, 4, 'balances'))
      expect(output).toMatch(/\d+\.jsonl:61 is not JSON: rejected/)
      expect(output).toMatch(/All balances, after/)
      expect(descendants(shop)).toEqual([])
    }
  })

  test('two at once on one server are refused, as they would share databases', async () => {
    const other = run()
    await until('it has its databases', () => other.output().includes('coordinator: '))
    const second = run()
    expect(await ended(second)).toBe(1)
    expect(second.output()).toContain('another shop is running on this server')
    expect(await ended(other), other.output()).toBe(0)
  })

  // One wrong row each, in the databases that a run has left behind; each is undone again.
  const someone = placed[7]!
  const nobody = refused[0]!
  test.each<[string, keyof ShopDatabases, string, string]>([
    ['a lost order', 'orders', `delete from orders where id = '${someone.id}'`, someone.id],
    [
      'a refused order that was placed',
      'orders',
      `update orders set outcome = 'placed' where id = '${nobody.id}'`,
      nobody.id,
    ],
    [
      'a wrong quantity',
      'orders',
      `update orders set quantity = quantity + 1 where id = '${someone.id}'`,
      someone.id,
    ],
    [
      'credit not given back',
      'orders',
      `update customers set credit_used_cents = credit_used_cents + 1 where id = '${someone.customer}'`,
      someone.customer,
    ],
    [
      'a lost reservation',
      'inventory',
      `delete from reservations where order_id = '${someone.id}'`,
      someone.id,
    ],
    [
      'stock moved twice',
      'inventory',
      `update stock set reserved = reserved + 1 where sku = '${someone.sku}'`,
      someone.sku,
    ],
    [
      'a charge made twice',
      'payment',
      `insert into charges select * from charges where order_id = '${someone.id}'`,
      someone.id,
    ],
    [
      'a charge for a refused order',
      'payment',
      `insert into charges values ('${nobody.id}', '${nobody.customer}', 1)`,
      nobody.id,
    ],
    [
      'one cent too little',
      'payment',
      `update accounts set charged_cents = charged_cents - 1 where customer = '${someone.customer}'`,
      someone.customer,
    ],
    [
      'a log entry about another order',
      'audit',
      `update log set order_id = 'order-x' where order_id = '${someone.id}'`,
      'order-x',
    ],
    [
      'a log entry twice',
      'audit',
      `insert into log select * from log where order_id = '${someone.id}'`,
      someone.id,
    ],
  ])('the reconciliation finds %s, and names it', async (_, where, sabotage, id) => {
    const clients = await connectAll()
    try {
      expect(await reconcile(smallInput, clients)).toMatchObject({ balances: true })
      await clients[where].query('begin')
      await clients[where].query(sabotage)
      const found = await reconcile(smallInput, clients)
      expect(found.balances).toBe(false)
      expect(differences(found)).toContainEqual(expect.stringContaining(`${id}: expected`))
      await clients[where].query('rollback')
    } finally {
      await Promise.all(Object.values(clients).map((client) => client.end()))
    }
  })

  async function connectAll(): Promise<ShopDatabases<Client>> {
    const names: (keyof ShopDatabases)[] = ['orders', 'inventory', 'payment', 'audit']
    const clients = names.map(async (name) => {
      const url = new URL(postgres.url)
      url.pathname = `/escrow_shop_${name}`
      const client = new Client({ connectionString: url.href })
      await client.connect()
      return [name, client] as const
    })
    return Object.fromEntries(await Promise.all(clients)) as unknown as ShopDatabases<Client>
  }

  const differences = (found: Reconciliation) => found.checks.flatMap((check) => check.differences)
})

test('orders come by standard input too', async () => {
  const shop = start(['--once', '--orders', '-'], { input: generateOrders(40).join('\n') })
  expect(await ended(shop), shop.output()).toBe(0)
  expect(shop.output()).toMatch(row('rejected lines', 4, 4, 'balances'))
})

test('two shops side by side keep apart', async () => {
  const shops = [small, ordersFile(200)].map((file) => start(['--once', '--orders', file]))
  for (const shop of shops) expect(await ended(shop), shop.output()).toBe(0)
  const ports = shops.map((shop) => /gRPC on (\d+)/.exec(shop.output())?.[1])
  expect(new Set(ports).size).toBe(2)
})

test('with kills it balances just the same, and each process had its kills at work', async () => {
  const shop = start(['--once', '--kill', '--seed', '2026', '--orders', ordersFile(1_500)])
  expect(await ended(shop), shop.output()).toBe(0)
  const output = shop.output()
  expect(output).toContain('kills: seed 2026')
  expect(output).toMatch(row('parked', 0))
  for (const name of ['coordinator', 'inventory', 'payment', 'audit', 'order-desk']) {
    const [, counted] = new RegExp(`^${name} +\\d+ +(\\d+) +[\\d.]+ s +[\\d.]+ s$`, 'm').exec(output) ?? []
    expect(Number(counted), `${name} in ${output}`).toBeGreaterThanOrEqual(5)
    expect(output).toMatch(new RegExp(`^${name} is back after [\\d.]+ s$`, 'm'))
  }
  expect(descendants(shop)).toEqual([])
})

test('with kills, an input too small to have work in flight is refused', async () => {
  const shop = start(['--once', '--kill', '--orders', small])
  expect(await ended(shop)).toBe(1)
  expect(shop.output()).toContain('--kill needs at least')
})

test.each([
  ['SIGTERM', 143],
  ['SIGINT', 130],
  ['SIGKILL', 'SIGKILL'],
] as const)('after %s in the midst of its kills no process is left', async (signal, status) => {
  const shop = start(['--once', '--kill', '--orders', join(main, '../orders.jsonl')])
  await until('orders are on their way', () => /orders [1-9]\d*\/4000/.test(shop.output()))
  // One may be dead just now, killed by the shop itself.
  await until('all are there', () => descendants(shop).length >= 6)
  shop.child.kill(signal)
  expect(await ended(shop), shop.output()).toBe(status)
  await until('all are gone', () => descendants(shop).length === 0, 20_000)
})

test('without --once it stays up for a look, and what it says to try works', async () => {
  const shop = start(['--orders', ordersFile(40)])
  await until('it says how to look', () => shop.output().includes('until Ctrl-C'))
  const [, url, body] = /curl -s (\S+List) .* -d '(.*)'/.exec(shop.output())!
  const response = await fetch(url!, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: body!,
  })
  expect(await response.json()).toMatchObject({ asOfMs: expect.any(String) })
  shop.child.kill('SIGINT')
  expect(await ended(shop), shop.output()).toBe(0)
  expect(descendants(shop)).toEqual([])
})
