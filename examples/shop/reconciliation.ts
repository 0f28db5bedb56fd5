/**
 * Compares the services' databases with the input, and with nothing else: the coordinator isn't asked, and what ought
 * to be there is computed here anew from the orders and the rules.
 */
import { type Order, type OrderFile, totalCents } from './orders.ts'
import { type Refused, refusalOf } from './rules.ts'

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

/** What ought to have come of the input. */
export function expectedOutcome({ orders }: Pick<OrderFile, 'orders'>): {
  readonly completed: readonly Order[]
  readonly compensated: readonly { readonly order: Order; readonly refused: Refused }[]
} {
  const completed: Order[] = []
  const compensated: { order: Order; refused: Refused }[] = []
  for (const order of orders) {
    const refused = refusalOf(order)
    if (refused === undefined) completed.push(order)
    else compensated.push({ order, refused })
  }
  return { completed, compensated }
}

/** Reads the four databases and compares. Each table must hold what the input asks for: each once, and nothing else. */
export async function reconcile(input: OrderFile, databases: ShopDatabases): Promise<Reconciliation> {
  const books: Books = {
    ...expectedOutcome(input),
    rows: async (service, sql) => facts((await databases[service].query(sql)).rows),
  }
  const checks = [
    compare('rejected lines', {
      expected: input.rejected.map(({ line, problem }) => [`line ${line}`, problem]),
      found: await books.rows('orders', `select 'line ' || line as id, problem as fact from rejected_lines`),
    }),
    ...(await orderChecks(books)),
    ...(await stockChecks(books)),
    ...(await moneyChecks(books)),
    ...(await confirmationChecks(books)),
  ]
  return { balances: checks.every((check) => check.differences.length === 0), checks }
}

/** What is compared with what. */
interface Books extends ReturnType<typeof expectedOutcome> {
  rows(service: keyof ShopDatabases, sql: string): Promise<Fact[]>
}

/** The orders as the order desk has them: with their outcomes, and confirmed once or never. */
async function orderChecks({ completed, compensated, rows }: Books): Promise<Check[]> {
  const line = (order: Order) =>
    `${order.customer}, ${order.quantity} × ${order.sku}, ${totalCents(order)} cents`
  return [
    compare('orders completed, confirmed once', {
      expected: completed.map((order) => [order.id, `${line(order)}, confirmed 1 times`]),
      found: await rows(
        'orders',
        `select id, customer || ', ' || quantity || ' × ' || sku || ', ' || total_cents || ' cents, confirmed ' ||
           times_confirmed || ' times' as fact from orders where outcome = 'completed'`,
      ),
    }),
    compare('orders compensated, for the right reason', {
      expected: compensated.map(({ order: { id }, refused: { step, code, reason } }) => [
        id,
        `compensated, confirmed 0 times, step "${step}": ${code}: ${reason}`,
      ]),
      found: await rows(
        'orders',
        `select id, coalesce(outcome, 'no outcome') || ', confirmed ' || times_confirmed || ' times, ' ||
           coalesce(reason, '') as fact from orders where outcome is distinct from 'completed'`,
      ),
    }),
  ]
}

/** Stock: reserved unless it was sold out, then either shipped or released, each once. */
async function stockChecks({ completed, compensated, rows }: Books): Promise<Check[]> {
  const released = compensated.flatMap(({ order, refused }) => (refused.step === 'reserve' ? [] : [order]))
  const due = { reserved: [...completed, ...released], released, shipped: completed }
  const checks: Check[] = []
  for (const [kind, orders] of Object.entries(due)) {
    checks.push(
      compare(`stock ${kind} once for each order`, {
        expected: orders.map((order) => [order.id, `${order.quantity} × ${order.sku}`]),
        found: await rows(
          'inventory',
          `select order_id as id, quantity || ' × ' || sku as fact from movements where kind = '${kind}'`,
        ),
      }),
      compareSums(`pieces ${kind}`, 'pieces', {
        expected: sumBy(
          orders,
          (order) => order.sku,
          (order) => order.quantity,
        ),
        found: await rows('inventory', `select sku as id, ${kind} as fact from stock where ${kind} <> 0`),
      }),
    )
  }
  return checks
}

/**
 * Money: charged once for what is completed. What a fraud check stopped was charged and refunded, or neither: both stand
 * in one parallel, and what comes first isn't said.
 */
async function moneyChecks({ completed, compensated, rows }: Books): Promise<Check[]> {
  const stopped = compensated.flatMap(({ order, refused }) => (refused.step === 'fraud-check' ? [order] : []))
  const entry = (order: Order, kind: 'charged' | 'refunded'): Fact => [
    order.id,
    `${kind} ${totalCents(order)} cents of ${order.customer}`,
  ]
  return [
    compare('charged once, or charged and refunded', {
      expected: completed.map((order) => entry(order, 'charged')),
      possible: stopped.flatMap((order) => [entry(order, 'charged'), entry(order, 'refunded')]),
      found: await rows(
        'payment',
        `select order_id as id, kind || ' ' || cents || ' cents of ' || customer as fact from entries`,
      ),
    }),
    compareSums('money that customers have paid', 'cents', {
      expected: sumBy(completed, (order) => order.customer, totalCents),
      found: await rows(
        'payment',
        'select customer as id, paid_cents as fact from accounts where paid_cents <> 0',
      ),
    }),
  ]
}

/** What came of the steps' results: the parcel of inventory goes through the saga to all who are told of it. */
async function confirmationChecks({ completed, rows }: Books): Promise<Check[]> {
  const shipped = `select order_id as id, number as fact from movements where kind = 'shipped'`
  const parcels = byId(await rows('inventory', shipped))
  const confirmations = await rows(
    'orders',
    `select order_id as id, 'parcel ' || parcel as fact from confirmations`,
  )
  const numbers = byId(await rows('orders', 'select order_id as id, number as fact from confirmations'))
  const parcelOf = ({ id }: Order) => String(parcels.get(id) ?? 'none')
  return [
    compare('confirmations sent once', {
      expected: completed.map((order) => [order.id, `parcel ${parcelOf(order)}`]),
      found: confirmations,
    }),
    compare('outcomes with what the steps gave', {
      expected: completed.map((order) => [
        order.id,
        `parcel ${parcelOf(order)}, confirmation ${String(numbers.get(order.id) ?? 'none')}`,
      ]),
      found: await rows(
        'orders',
        `select id, 'parcel ' || parcel || ', confirmation ' || confirmation as fact from orders
         where parcel is not null or confirmation is not null`,
      ),
    }),
    compare('each confirmation in the audit log once', {
      expected: completed.map((order) => [
        order.id,
        `${order.customer}, ${order.quantity} × ${order.sku} at ${order.unitPriceCents}, parcel ${parcelOf(order)}`,
      ]),
      found: await rows(
        'audit',
        `select order_id as id,
           customer || ', ' || quantity || ' × ' || sku || ' at ' || unit_price_cents || ', parcel ' || parcel as fact
         from log`,
      ),
    }),
  ]
}

/** What is said of an id: by the input, or by a row. */
type Fact = readonly [id: string, fact: string]

interface Sides {
  readonly expected: readonly Fact[]
  /** What may be there: of an id all of it, or none. */
  readonly possible?: readonly Fact[]
  readonly found: readonly Fact[]
}

function facts(rows: readonly Record<string, unknown>[]): Fact[] {
  return rows.map(({ id, fact }) => [
    String(id),
    typeof fact === 'object' ? JSON.stringify(fact) : String(fact),
  ])
}

/** Compares the facts of each id; an id may have several, each of which counts. */
function compare(what: string, { expected, possible = [], found }: Sides): Check {
  const there = byId(found)
  const due = byId([...expected, ...possible.filter(([id]) => there.has(id))])
  const differences: string[] = []
  for (const [id, wanted] of due) {
    const given = there.get(id) ?? []
    if (String(wanted) !== String(given))
      differences.push(`${id}: expected ${said(wanted)}, found ${said(given)}`)
  }
  for (const [id, given] of there) {
    if (!due.has(id)) differences.push(`${id}: expected nothing, found ${said(given)}`)
  }
  const count = [...due.values()].reduce((sum, wanted) => sum + wanted.length, 0)
  return { what, expected: String(count), found: String(found.length), differences }
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
