/** The main job as a user runs it: real processes, real databases, real kills. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

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

const root = join(import.meta.dirname, '../..')
const main = join(root, 'examples/shop/main.ts')
const cli = join(root, 'src/cli/escrow.ts')
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
  const { completed, compensated } = expectedOutcome(smallInput)
  const refusedAt = (step: string) =>
    compensated.filter(({ refused }) => refused.step === step).map(({ order }) => order)
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
      expect(completed.length).toBeGreaterThan(200)
      for (const step of ['reserve', 'charge', 'fraud-check'])
        expect(refusedAt(step).length).toBeGreaterThan(5)
      expect(output).toMatch(row('completed', completed.length))
      expect(output).toMatch(row('compensated', compensated.length))
      expect(output).toMatch(row('committed', completed.length))
      expect(output).toMatch(row('rolled back', /\d+/))
      // Words to the coordinator that are lost on purpose.
      expect(output).toMatch(row('of these settled by check-back', /[1-9]\d*/))
      expect(output.match(/^parked +0$/gm)).toHaveLength(2)
      expect(output).toMatch(/^order-desk kills itself at order-\d+\/sent, after its COMMIT/m)
      const [paid, short] = [completed.length, compensated.length]
      expect(output).toMatch(row('orders completed, confirmed once', paid, paid, 'balances'))
      expect(output).toMatch(row('orders compensated, for the right reason', short, short, 'balances'))
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
  const someone = completed[7]!
  const declined = refusedAt('charge')[0]!
  const soldOut = refusedAt('reserve')[0]!
  // What the fraud check stops is refunded wherever it was charged by then: some of them have been.
  const refunded = { id: '' }
  test.each<[string, keyof ShopDatabases, () => string, () => string]>([
    ['a lost order', 'orders', () => `delete from orders where id = '${someone.id}'`, () => someone.id],
    [
      'an order without an outcome',
      'orders',
      () => `update orders set outcome = null where id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'an undone order that is told as completed',
      'orders',
      () => `update orders set outcome = 'completed' where id = '${declined.id}'`,
      () => declined.id,
    ],
    [
      'an order that is undone for another reason',
      'orders',
      () => `update orders set reason = 'step "reserve": soldOut: nothing' where id = '${declined.id}'`,
      () => declined.id,
    ],
    [
      'an order that was confirmed twice',
      'orders',
      () => `update orders set times_confirmed = 2 where id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'an undone order that was confirmed',
      'orders',
      () => `update orders set times_confirmed = 1 where id = '${declined.id}'`,
      () => declined.id,
    ],
    [
      'a wrong quantity',
      'orders',
      () => `update orders set quantity = quantity + 1 where id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a missing confirmation',
      'orders',
      () => `delete from confirmations where order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a confirmation sent twice',
      'orders',
      () =>
        `insert into confirmations (order_id, parcel) select order_id, parcel from confirmations where order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a confirmation of an undone order',
      'orders',
      () => `insert into confirmations (order_id, parcel) values ('${declined.id}', 1)`,
      () => declined.id,
    ],
    [
      'a confirmation of another parcel',
      'orders',
      () => `update confirmations set parcel = parcel + 1 where order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a result that another attempt gave',
      'orders',
      () => `update orders set confirmation = confirmation + 1 where id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a lost reservation',
      'inventory',
      () => `delete from movements where kind = 'reserved' and order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a reservation of what is sold out',
      'inventory',
      () =>
        `insert into movements (order_id, kind, sku, quantity) values ('${soldOut.id}', 'reserved', '${soldOut.sku}', 1)`,
      () => soldOut.id,
    ],
    [
      "stock that wasn't released",
      'inventory',
      () => `delete from movements where kind = 'released' and order_id = '${declined.id}'`,
      () => declined.id,
    ],
    [
      'stock released twice',
      'inventory',
      () =>
        `insert into movements (order_id, kind, sku, quantity) select order_id, kind, sku, quantity from movements where kind = 'released' and order_id = '${declined.id}'`,
      () => declined.id,
    ],
    [
      'stock released though it was shipped',
      'inventory',
      () =>
        `insert into movements (order_id, kind, sku, quantity) values ('${someone.id}', 'released', '${someone.sku}', ${someone.quantity})`,
      () => someone.id,
    ],
    [
      'a shipment of an undone order',
      'inventory',
      () =>
        `insert into movements (order_id, kind, sku, quantity) values ('${declined.id}', 'shipped', '${declined.sku}', ${declined.quantity})`,
      () => declined.id,
    ],
    [
      "an order that wasn't shipped",
      'inventory',
      () => `delete from movements where kind = 'shipped' and order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'stock reserved twice',
      'inventory',
      () => `update stock set reserved = reserved + 1 where sku = '${someone.sku}'`,
      () => someone.sku,
    ],
    [
      'released stock that was added nowhere',
      'inventory',
      () => `update stock set released = released - 1 where sku = '${declined.sku}'`,
      () => declined.sku,
    ],
    [
      'stock shipped twice',
      'inventory',
      () => `update stock set shipped = shipped + 1 where sku = '${someone.sku}'`,
      () => someone.sku,
    ],
    [
      'a lost charge',
      'payment',
      () => `delete from entries where order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a charge made twice',
      'payment',
      () =>
        `insert into entries (order_id, customer, cents, kind) select order_id, customer, cents, kind from entries where order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a charge that was declined',
      'payment',
      () =>
        `insert into entries (order_id, customer, cents, kind) values ('${declined.id}', '${declined.customer}', 1, 'charged')`,
      () => declined.id,
    ],
    [
      'a missing refund',
      'payment',
      () => `delete from entries where kind = 'refunded' and order_id = '${refunded.id}'`,
      () => refunded.id,
    ],
    [
      'a refund made twice',
      'payment',
      () =>
        `insert into entries (order_id, customer, cents, kind) select order_id, customer, cents, kind from entries where kind = 'refunded' and order_id = '${refunded.id}'`,
      () => refunded.id,
    ],
    [
      'a refund of what was never charged',
      'payment',
      () => `delete from entries where kind = 'charged' and order_id = '${refunded.id}'`,
      () => refunded.id,
    ],
    [
      'a refund of a completed order',
      'payment',
      () =>
        `insert into entries (order_id, customer, cents, kind) values ('${someone.id}', '${someone.customer}', 1, 'refunded')`,
      () => someone.id,
    ],
    [
      'one cent too little',
      'payment',
      () => `update accounts set paid_cents = paid_cents - 1 where customer = '${someone.customer}'`,
      () => someone.customer,
    ],
    [
      'a log entry about another order',
      'audit',
      () => `update log set order_id = 'order-x' where order_id = '${someone.id}'`,
      () => 'order-x',
    ],
    [
      'a log entry twice',
      'audit',
      () => `insert into log select * from log where order_id = '${someone.id}'`,
      () => someone.id,
    ],
    [
      'a log entry about another parcel',
      'audit',
      () => `update log set parcel = parcel + 1 where order_id = '${someone.id}'`,
      () => someone.id,
    ],
  ])('the reconciliation finds %s, and names it', async (_, where, sabotage, id) => {
    const clients = await connectAll()
    try {
      expect(await reconcile(smallInput, clients)).toMatchObject({ balances: true })
      const { rows } = await clients.payment.query(
        `select order_id from entries where kind = 'refunded' limit 1`,
      )
      refunded.id = rows[0]?.order_id
      await clients[where].query('begin')
      await clients[where].query(sabotage())
      const found = await reconcile(smallInput, clients)
      expect(found.balances).toBe(false)
      expect(differences(found)).toContainEqual(expect.stringContaining(`${id()}: expected`))
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
  expect(output.match(/^parked +0$/gm)).toHaveLength(2)
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
  expect(await response.json()).toMatchObject({
    transactions: [{ kind: 'TRANSACTION_KIND_SAGA', status: 'TRANSACTION_STATUS_COMPENSATED' }],
  })
  const commands = [...shop.output().matchAll(/npm run -s escrow -- (.*)$/gm)].map(([, command]) => command!)
  expect(commands).toHaveLength(3)
  for (const command of commands) {
    const { stdout } = await promisify(execFile)(process.execPath, [cli, ...command.split(' ')], {
      cwd: root,
    })
    expect(stdout, command).toMatch(/compensated|stateDiagram/)
  }
  shop.child.kill('SIGINT')
  expect(await ended(shop), shop.output()).toBe(0)
  expect(descendants(shop)).toEqual([])
})
