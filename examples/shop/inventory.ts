/** Reserves, releases and ships. Its database: each movement of stock, and their sums by article in `stock`. */
import type { PoolClient } from 'pg'
import { defineStep, participant, postgresBarrier } from '../../src/participant/index.ts'
import type { Order } from './orders.ts'
import { refuseWhere } from './rules.ts'
import { committed, connecting, coordinator, openDatabase, tell } from './service.ts'
import { inventory } from './steps.ts'

const pool = openDatabase('inventory')
// Nothing unique: the barrier alone keeps a step from taking effect twice, and the reconciliation would see it.
await pool.query(`
  create table if not exists movements (
    number integer generated always as identity, order_id text not null, sku text not null, quantity integer not null,
    kind text not null check (kind in ('reserved', 'released', 'shipped')));
  create table if not exists stock (
    sku text primary key, reserved bigint not null default 0, released bigint not null default 0,
    shipped bigint not null default 0)`)

const barrier = await postgresBarrier(pool)

const reserve = defineStep(inventory.reserve.type, {
  action: (order, call) =>
    committed({ name: 'reserved', orderId: order.id }, (doing) =>
      barrier.step(call, pool, async (client) => {
        doing()
        refuseWhere('reserve', order)
        return { reservation: await move(client, 'reserved', order) }
      }),
    ),
  compensation: (order, _reservation, call) =>
    committed({ name: 'released', orderId: order.id }, (doing) =>
      barrier.step(call, pool, async (client) => {
        doing()
        await move(client, 'released', order)
      }),
    ),
})
const ship = defineStep(inventory.ship.type, {
  action: (order, call) =>
    committed({ name: 'shipped', orderId: order.id }, (doing) =>
      barrier.step(call, pool, async (client) => {
        doing()
        return { parcel: await move(client, 'shipped', order) }
      }),
    ),
})

await participant('inventory', { reserve, ship }, { barrier }).connect(coordinator, connecting)
tell('ready')

/** Writes a movement down, and gives its number. */
async function move(
  client: PoolClient,
  kind: 'reserved' | 'released' | 'shipped',
  { id, sku, quantity }: Order,
): Promise<number> {
  const sql = 'insert into movements (order_id, kind, sku, quantity) values ($1, $2, $3, $4) returning number'
  const { rows } = await client.query<{ number: number }>(sql, [id, kind, sku, quantity])
  await client.query(
    `insert into stock as s (sku, ${kind}) values ($1, $2)
     on conflict (sku) do update set ${kind} = s.${kind} + excluded.${kind}`,
    [sku, quantity],
  )
  return rows[0]!.number
}
