/** The shop's input: orders as JSON lines. The order desk and the reconciliation both read it with this parser. */
import { readFileSync, statSync } from 'node:fs'

/** The largest file that is read: all of its orders are held in memory. */
const fileBytesMax = 64 << 20
/** Keeps every sum exact in a JavaScript number and in PostgreSQL's bigint. */
const quantityMax = 1_000
const unitPriceCentsMax = 10_000_000
const name = /^[A-Za-z0-9._-]{1,64}$/

/** What a customer wants. Money is in whole cents. */
export interface Order {
  readonly id: string
  readonly customer: string
  readonly sku: string
  readonly quantity: number
  readonly unitPriceCents: number
}

/** A line that holds no order, counted from 1. */
export interface RejectedLine {
  readonly line: number
  readonly problem: string
}

/** The input, in its order. Empty lines count for nothing. */
export interface OrderFile {
  readonly orders: readonly Order[]
  readonly rejected: readonly RejectedLine[]
}

/** Reads a file of JSON lines. Throws only where there is no such file, or where it is larger than 64 MiB. */
export function readOrders(path: string): OrderFile {
  const { size } = statSync(path)
  if (size > fileBytesMax)
    throw new Error(`${path} has ${size} bytes; the shop reads at most ${fileBytesMax}`)
  return parseOrders(readFileSync(path, 'utf8'))
}

/** Parses JSON lines. An id that came before is a duplicate, and its line is rejected, whatever else it says. */
export function parseOrders(text: string): OrderFile {
  const orders: Order[] = []
  const rejected: RejectedLine[] = []
  const lineOf = new Map<string, number>()
  const lines = text.split('\n')
  for (let line = 1; line <= lines.length; line += 1) {
    const content = lines[line - 1]!.trim()
    if (content === '') continue
    const found = parseOrder(content)
    const before = typeof found === 'string' ? undefined : lineOf.get(found.id)
    if (typeof found === 'string') rejected.push({ line, problem: found })
    else if (before !== undefined)
      rejected.push({ line, problem: `id "${found.id}" was used in line ${before}` })
    else {
      lineOf.set(found.id, line)
      orders.push(found)
    }
  }
  return { orders, rejected }
}

/** What the order costs, in cents. */
export function totalCents(order: Order): number {
  return order.quantity * order.unitPriceCents
}

/** The order, or what is wrong with the line. */
function parseOrder(content: string): Order | string {
  let value: unknown
  try {
    value = JSON.parse(content)
  } catch {
    return 'is not JSON'
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'is not a JSON object'
  const { id, customer, sku, quantity, unitPriceCents } = value as Record<string, unknown>
  for (const [field, text] of Object.entries({ id, customer, sku })) {
    if (typeof text !== 'string' || !name.test(text)) return `${field} is not 1-64 of A-Z a-z 0-9 . _ -`
  }
  if (!isWhole(quantity, quantityMax)) return `quantity is not a whole number from 1 to ${quantityMax}`
  if (!isWhole(unitPriceCents, unitPriceCentsMax)) {
    return `unitPriceCents is not a whole number from 1 to ${unitPriceCentsMax}`
  }
  // Named one by one: fields that nobody asked for don't travel on.
  return { id, customer, sku, quantity, unitPriceCents } as Order
}

function isWhole(value: unknown, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= max
}
