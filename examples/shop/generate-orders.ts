/**
 * `node examples/shop/generate-orders.ts [COUNT] > orders.jsonl`: writes orders, the same ones each time. Without
 * COUNT it writes the file that lies beside it. Four lines are wrong on purpose.
 */
import type { Order } from './orders.ts'
import { randomFrom } from './random.ts'

const wares = ['tea', 'coffee', 'cocoa', 'honey', 'ginger', 'pepper', 'vanilla', 'saffron']
const packs = 5

/** The lines of a file with so many orders, and some lines that no order desk can take. */
export function generateOrders(count: number): string[] {
  const random = randomFrom(7)
  const below = (bound: number) => Math.floor(random() * bound)
  const customers = Math.max(1, Math.round(count / 16))
  const lines: string[] = []
  for (let number = 1; number <= count; number += 1) {
    const ware = below(wares.length)
    const pack = below(packs)
    const order: Order = {
      id: `order-${String(number).padStart(5, '0')}`,
      customer: `customer-${String(1 + below(customers)).padStart(3, '0')}`,
      sku: `${wares[ware]}-${pack + 1}`,
      quantity: 1 + below(6),
      unitPriceCents: 199 + 350 * ware + 125 * pack,
    }
    lines.push(JSON.stringify(order))
  }
  const again = lines[0]!
  const spoilt = [
    '{"id":"order-cut',
    again.replace(/"quantity":\d+/, '"quantity":-2').replace('order-', 'odd-'),
    again,
  ]
  spoilt.push('{"id":"order-free","customer":"customer-001","sku":"tea-1","quantity":1,"unitPriceCents":0.5}')
  spoilt.forEach((line, index) => {
    lines.splice(Math.floor((count * (index + 1)) / 5), 0, line)
  })
  return lines
}

if (import.meta.main) {
  const count = Number(process.argv[2] ?? 4_000)
  if (!Number.isInteger(count) || count < 1)
    throw new Error(`COUNT is "${process.argv[2]}", not a whole number from 1`)
  process.stdout.write(`${generateOrders(count).join('\n')}\n`)
}
