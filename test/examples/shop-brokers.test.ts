/** `npm start -- --broker KIND`: the confirmations go over each broker there is, and all balances. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { brokerKinds } from '../../examples/shop/broker.ts'
import { Program } from '../harness/program.ts'
import { brokerOfTest } from '../services/brokers.ts'

const main = 'examples/shop/main.ts'
const ORDERS = 400

test.for(brokerKinds)('%s', async (kind, context) => {
  const { url } = await brokerOfTest(kind, context)
  const folder = mkdtempSync(join(tmpdir(), 'escrow-shop-orders-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'orders.jsonl')
  const orders = readFileSync(join(import.meta.dirname, '../../examples/shop/orders.jsonl'), 'utf8')
  writeFileSync(file, orders.split('\n').slice(0, ORDERS).join('\n'))
  const args = ['--once', '--broker', kind, '--orders', file]
  const shop = new Program({ file: main, args, env: { BROKER_URL: url } })
  const { code } = await shop.end(240_000)
  expect(code, shop.output).toBe(0)
  expect(shop.output).toContain(`broker: ${kind} of BROKER_URL`)
  expect(shop.output).toMatch(/each confirmation in the audit log once +(\d+) +\1 +balances/)
})

test('a kind that there is none of is refused, with those that there are', async () => {
  const shop = new Program({ file: main, args: ['--once', '--broker', 'carrier-pigeon'] })
  expect((await shop.end()).code).toBe(2)
  expect(shop.output).toContain(`--broker "carrier-pigeon" is not one of ${brokerKinds.join(', ')}`)
})

test('a broker that is not there ends the run with what to do', async () => {
  const env = { PATH: '/nowhere', BROKER_URL: '' }
  const shop = new Program({ file: main, args: ['--once', '--broker', 'redis'], env })
  expect((await shop.end()).code).toBe(1)
  expect(shop.output).toContain('Name one in BROKER_URL, or install it: npm run services:setup')
})
