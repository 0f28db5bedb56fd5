/**
 * Compares the services' databases with the input, and with nothing else: the coordinator isn't asked, and what ought
 * to be there is computed here anew from the orders and the rule.
 */
import { creditLimitCents, type Order, type OrderFile, totalCents } from './orders.ts'

/** A database as far as it is read here; a `pg` pool or client is one. */
export interface Readable {
  query(sql: string): Promise<{ rows: Record<string, unknown>[] }>
}

/** The database of each service. */
export interface ShopDatabases<T = Readable> {
  readonly orders: T
  readonly inventory: T
  readonly payment: T
  readonly audit: T
}

/** One thing that was compared: it balances when there is no difference. */
export interface Check {
  readonly what: string
  readonly expected: string
  readonly found: string
  /** One sentence each, with the id that it is about. */
  readonly differences: readonly string[]
}

/** Everything that was compared. */
export interface Reconciliation {
  readonly balances: boolean
  readonly checks: readonly Check[]
}

/** What ought to have come of the input: the rule is applied in the order of each customer's lines. */
export function expectedOutcome({ orders }: Pick<OrderFile, 'orders'>): {
  placed: Order[]
  refused: Order[]
} {
  const owedCents = new Map<string, number>()
  const placed: Order[] = []
  const refused: Order[] = []
  for (const order of orders) {
    const owed = (owedCents.get(order.customer) ?? 0) + totalCents(order)
    if (owed > creditLimitCents) refused.push(order)
    else {
      owedCents.set(order.customer, owed)
      placed.push(order)
    }
  }
  return { placed, refused }
}

/** Reads the four databases and compares. Each table must hold what the input asks for: each once, and nothing else. */
export async function reconcile(input: OrderFile, databases: ShopDatabases): Promise<Reconciliation> {
  const { placed, refused } = expectedOutcome(input)
  const rows = async (service: keyof ShopDatabases, sql: string) =>
    facts((await databases[service].query(sql)).rows)
  const perOrder = (describe: (order: Order) => string) =>
    placed.map((order) => [order.id, describe(order)] as Fact)
  const checks = [
    compare('rejected lines', {
      expected: input.rejected.map(({ line, problem }) => [`line ${line}`, problem]),
      found: await rows('orders', `select 'line ' || line as id, problem as fact from rejected_lines`),
    }),
    compare('orders placed', {
      expected: perOrder(
        (order) => `${order.customer}, ${order.quantity} × ${order.sku}, ${totalCents(order)} cents`,
      ),
      found: await rows(
        'orders',
        `select id, customer || ', ' || quantity || ' × ' || sku || ', ' || total_cents || ' cents' as fact
         from orders where outcome = 'placed'`,
      ),
    }),
    compare('orders refused', {
      expected: refused.map((order) => [order.id, 'refused']),
      found: await rows('orders', `select id, outcome as fact from orders where outcome <> 'placed'`),
    }),
    compareSums('credit used', 'cents', {
      expected: sumBy(placed, (order) => order.customer, totalCents),
      found: await rows('orders', 'select id, credit_used_cents as fact from customers'),
    }),
    compare('stock reserved once for each order', {
      expected: perOrder((order) => `${order.quantity} × ${order.sku}`),
      found: await rows(
        'inventory',
        `select order_id as id, quantity || ' × ' || sku as fact from reservations`,
      ),
    }),
    compareSums('stock moved', 'pieces', {
      expected: sumBy(
        placed,
        (order) => order.sku,
        (order) => order.quantity,
      ),
      found: await rows('inventory', 'select sku as id, reserved as fact from stock'),
    }),
    compare('each order charged once', {
      expected: perOrder((order) => `${totalCents(order)} cents of ${order.customer}`),
      found: await rows(
        'payment',
        `select order_id as id, cents || ' cents of ' || customer as fact from charges`,
      ),
    }),
    compareSums('money charged', 'cents', {
      expected: sumBy(placed, (order) => order.customer, totalCents),
      found: await rows('payment', 'select customer as id, charged_cents as fact from accounts'),
    }),
    compare('each order in the audit log once', {
      expected: perOrder((order) =>
        JSON.stringify([order.customer, order.sku, order.quantity, order.unitPriceCents]),
      ),
      found: await rows(
        'audit',
        `select order_id as id, json_build_array(customer, sku, quantity, unit_price_cents) as fact from log`,
      ),
    }),
  ]
  return { balances: checks.every((check) => check.differences.length === 0), checks }
}

/** What is said of an id: by the input, or by a row. */
type Fact = readonly [id: string, fact: string]

interface Sides {
  readonly expected: readonly Fact[]
  readonly found: readonly Fact[]
}

function facts(rows: readonly Record<string, unknown>[]): Fact[] {
  return rows.map(({ id, fact }) => [
    String(id),
    typeof fact === 'object' ? JSON.stringify(fact) : String(fact),
  ])
}

/** Compares the facts of each id; an id may have several, each of which counts. */
function compare(what: string, { expected, found }: Sides): Check {
  const due = byId(expected)
  const there = byId(found)
  const differences: string[] = []
  for (const [id, wanted] of due) {
    const given = there.get(id) ?? []
    if (String(wanted) !== String(given))
      differences.push(`${id}: expected ${said(wanted)}, found ${said(given)}`)
  }
  for (const [id, given] of there) {
    if (!due.has(id)) differences.push(`${id}: expected nothing, found ${said(given)}`)
  }
  return { what, expected: String(expected.length), found: String(found.length), differences }
}

/** Compares sums by id, and shows the sum of the sums. */
function compareSums(what: string, unit: 'cents' | 'pieces', sides: Sides): Check {
  const total = (side: readonly Fact[]) => {
    const sum = side.reduce((before, [, fact]) => before + BigInt(fact), 0n)
    return unit === 'cents' ? money(sum) : String(sum)
  }
  const withUnit = (side: readonly Fact[]) => side.map(([id, fact]) => [id, `${fact} ${unit}`] as Fact)
  const { differences } = compare(what, { expected: withUnit(sides.expected), found: withUnit(sides.found) })
  return { what, expected: total(sides.expected), found: total(sides.found), differences }
}

function byId(side: readonly Fact[]): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const [id, fact] of side) found.set(id, [...(found.get(id) ?? []), fact].sort())
  return found
}

function sumBy(
  orders: readonly Order[],
  key: (order: Order) => string,
  amount: (order: Order) => number,
): Fact[] {
  const sums = new Map<string, number>()
  for (const order of orders) sums.set(key(order), (sums.get(key(order)) ?? 0) + amount(order))
  return [...sums].map(([id, sum]) => [id, String(sum)])
}

function said(found: readonly string[]): string {
  if (found.length === 0) return 'nothing'
  return found.length === 1
    ? `“${found[0]}”`
    : `${found.length} times: ${found.map((fact) => `“${fact}”`).join(', ')}`
}

function money(cents: bigint): string {
  const digits = String(cents < 0n ? -cents : cents).padStart(3, '0')
  return `${cents < 0n ? '-' : ''}${digits.slice(0, -2)}.${digits.slice(-2)}`
}
