/** Two databases of a small shop, what must be true of them, and the programs that work on them. */
import { Pool } from 'pg'
import { expect } from 'vitest'
import type { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { Program } from '../harness/program.ts'
import { until } from '../harness/until.ts'
import type { PostgresService } from '../services/postgres.ts'

export interface Shop {
  readonly orders: Pool
  readonly inventory: Pool
  /** Starts a program with the database of its name: `order-desk`, `one-order`, `inventory`. */
  run(
    name: string,
    address: string,
    args?: readonly string[],
    env?: Readonly<Record<string, string>>,
  ): Program
  /** Order ids whose local transaction has committed. */
  placed(): Promise<readonly string[]>
  /** How often the effect of this order was made, and how often it was brought. */
  taken(id: string): Promise<{ readonly effects: number; readonly attempts: number }>
  close(): Promise<void>
}

/** Makes both databases anew. */
export async function openShop(postgres: PostgresService, name: string): Promise<Shop> {
  const [ordersUrl, inventoryUrl] = (await Promise.all(
    ['orders', 'inventory'].map((each) => postgres.database(`${name}_${each}`)),
  )) as [string, string]
  const orders = new Pool({ connectionString: ordersUrl, max: 4 })
  const inventory = new Pool({ connectionString: inventoryUrl, max: 4 })
  await orders.query('create table orders (id text)')
  // Without keys: what is doubled must show.
  await inventory.query(`
    create table effects (execution_id text, order_id text);
    create table attempts (execution_id text, order_id text, attempt integer)`)
  const count = async (table: string, id: string): Promise<number> =>
    (await inventory.query(`select 1 from ${table} where order_id = $1`, [id])).rowCount ?? 0
  return {
    orders,
    inventory,
    run: (program, address, args = [], env = {}) =>
      new Program({
        file: `test/recovery/programs/${program}.ts`,
        args,
        env: {
          ...env,
          ESCROW_ADDRESS: address,
          DATABASE_URL: program === 'inventory' ? inventoryUrl : ordersUrl,
        },
      }),
    placed: async () => (await orders.query('select id from orders order by id')).rows.map(({ id }) => id),
    taken: async (id) => ({ effects: await count('effects', id), attempts: await count('attempts', id) }),
    close: async () => {
      await Promise.all([orders.end(), inventory.end()])
    },
  }
}

/**
 * Waits until every transaction has ended, and holds the coordinator's word and both databases to the rules: one outcome
 * each (I3, I5), every committed message delivered at least once, its effect made once (I4), no rolled-back one ever brought.
 */
export async function balances(shop: Shop, coordinator: CoordinatorProcess, count: number): Promise<void> {
  const open = ['TRANSACTION_STATUS_PREPARED', 'TRANSACTION_STATUS_COMMITTED', 'TRANSACTION_STATUS_PARKED']
  const all = await until(
    'every transaction has ended',
    async () => {
      const found = await coordinator.all()
      const left = found
        .filter(({ status }) => open.includes(status))
        .map(({ id, status }) => `${id} ${status}`)
      if (left.length > 0)
        throw new Error(`open are ${left.slice(0, 5).join(', ')} and ${left.length} in all`)
      return found
    },
    60_000,
  )
  const placed = await shop.placed()
  expect(new Set(placed).size).toBe(placed.length)
  // Eight of ten orders want to be placed; a check-back may have turned some of them away.
  expect(placed.length).toBeGreaterThan(count * 0.7)
  expect(all.filter(({ settledBy }) => settledBy === 'checkBack').length).toBeGreaterThan(count * 0.1)
  const names = Array.from({ length: count }, (_, number) => `order-${number}`).sort()
  expect(all.map(({ id }) => id).sort()).toEqual(names)
  const delivered = all.filter(({ status }) => status === 'TRANSACTION_STATUS_DELIVERED')
  expect(delivered.map(({ id }) => id).sort()).toEqual([...placed].sort())

  const effects = await shop.inventory.query(
    'select order_id as id, execution_id from effects order by order_id',
  )
  expect(effects.rows.map(({ id }) => id)).toEqual([...placed].sort())
  // Under the one id that the coordinator told.
  const executions = new Map(delivered.map(({ id, deliveries }) => [id, deliveries[0].executionId]))
  expect(effects.rows.filter(({ id, execution_id: execution }) => executions.get(id) !== execution)).toEqual(
    [],
  )
  const brought = await shop.inventory.query('select distinct order_id as id from attempts order by order_id')
  expect(brought.rows.map(({ id }) => id)).toEqual([...placed].sort())
}
