import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { generateOrders } from '../../examples/shop/generate-orders.ts'
import { parseOptions, UsageError } from '../../examples/shop/options.ts'
import { parseOrders } from '../../examples/shop/orders.ts'
import { expectedOutcome } from '../../examples/shop/reconciliation.ts'
import { cardLimitCents, refusalOf } from '../../examples/shop/rules.ts'

const shop = join(import.meta.dirname, '../../examples/shop')
const order = { id: 'a-1', customer: 'c-1', sku: 'tea-1', quantity: 2, unitPriceCents: 250 }
const line = (changes: object = {}) => JSON.stringify({ ...order, ...changes })

describe('the input', () => {
  test('the committed order file is the generated one, so that anybody can make it again', () => {
    expect(readFileSync(join(shop, 'orders.jsonl'), 'utf8')).toBe(`${generateOrders(4_000).join('\n')}\n`)
  })

  test.each([
    ['{"id":', 'is not JSON'],
    ['[]', 'is not a JSON object'],
    ['null', 'is not a JSON object'],
    [line({ id: '' }), 'id is not'],
    [line({ id: 7 }), 'id is not'],
    [line({ customer: 'x'.repeat(65) }), 'customer is not'],
    [line({ sku: "tea'; drop table stock" }), 'sku is not'],
    [line({ quantity: -1 }), 'quantity is not'],
    [line({ quantity: 0 }), 'quantity is not'],
    [line({ quantity: 1.5 }), 'quantity is not'],
    [line({ quantity: '2' }), 'quantity is not'],
    [line({ quantity: 1e99 }), 'quantity is not'],
    [line({ unitPriceCents: 0.5 }), 'unitPriceCents is not'],
    [line({ unitPriceCents: undefined }), 'unitPriceCents is not'],
    [line(), 'id "a-1" was used in line 1'],
  ])('a line that holds no order is rejected with its number: %s', (bad, problem) => {
    const found = parseOrders(`${line()}\n\n${bad}\n${line({ id: 'a-2' })}`)
    expect(found.orders.map(({ id }) => id)).toEqual(['a-1', 'a-2'])
    expect(found.rejected).toEqual([{ line: 3, problem: expect.stringContaining(problem) }])
  })

  test('what becomes of an order follows from its line alone, and at most one step refuses it', () => {
    const suspect = Array.from({ length: 1_000 }, (_, at) => `c-${at}`).find((customer) => {
      return refusalOf({ ...order, customer })?.step === 'fraud-check'
    })
    const dear = { quantity: 1, unitPriceCents: cardLimitCents + 1 }
    const lines = [
      line({ id: '1', quantity: 1, unitPriceCents: cardLimitCents }),
      line({ id: '2', ...dear }),
      line({ id: '3', sku: 'ginger-2', customer: suspect, ...dear }),
      line({ id: '4', customer: suspect }),
      line({ id: '5', customer: suspect, ...dear }),
    ]
    for (const all of [lines, lines.toReversed()]) {
      const { completed, compensated } = expectedOutcome(parseOrders(all.join('\n')))
      expect(completed.map(({ id }) => id)).toEqual(['1'])
      const steps = compensated.map((each) => `${each.order.id} ${each.refused.step}`).sort()
      expect(steps).toEqual(['2 charge', '3 reserve', '4 fraud-check', '5 charge'])
    }
  })

  test('the example has orders for each way that one can end', () => {
    const { completed, compensated } = expectedOutcome(parseOrders(generateOrders(4_000).join('\n')))
    const count = (step: string) => compensated.filter(({ refused }) => refused.step === step).length
    for (const some of [completed.length, count('reserve'), count('charge'), count('fraud-check')])
      expect(some).toBeGreaterThan(100)
  })
})

describe('the command line', () => {
  test('what is asked for is understood', () => {
    expect(parseOptions(['--once', '--kill', '--seed', '7', '--orders', '-'])).toEqual({
      orders: '-',
      once: true,
      kill: true,
      seed: 7,
    })
    expect(parseOptions(['--help'])).toBe(undefined)
  })

  test.each([
    [['--twice'], '--twice'],
    [['orders.jsonl'], 'orders.jsonl'],
    [['--orders'], '--orders'],
    [['--orders='], '--orders'],
    [['--seed', '7'], '--kill'],
    [['--kill', '--seed', '-1'], '--seed'],
    [['--kill', '--seed', '4294967296'], '4294967296'],
    [['--kill', '--seed', 'x'], '"x"'],
    [['--once=yes'], '--once'],
  ])('what makes no sense is refused with a word about it: %j', (args, word) => {
    expect(() => parseOptions(args)).toThrow(UsageError)
    expect(() => parseOptions(args)).toThrow(word)
  })

  test('--help ends with 0, a wrong flag with 2 and the usage, a file that is not there with 1', () => {
    const main = (...args: string[]) =>
      spawnSync(process.execPath, [join(shop, 'main.ts'), ...args], { encoding: 'utf8' })
    expect(main('--help')).toMatchObject({ status: 0, stdout: expect.stringContaining('--orders FILE') })
    expect(main('--twice')).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/^Unknown option '--twice'[\s\S]*--orders FILE/),
    })
    expect(main('--orders', '/no/such/file')).toMatchObject({
      status: 1,
      stdout: expect.stringContaining('/no/such/file'),
    })
  })
})
