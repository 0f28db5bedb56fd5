/** Whom place-order calls: three services, each with a PostgreSQL database of its own. */
import type { Pool } from 'pg'
import { defineStep, type Participant, participant, postgresBarrier, refuse } from '../../src/index.ts'
import { inventory, orders, payments } from './place-order.ts'

/** Reserves and ships. An order of `sold-out` is refused. */
export async function inventoryService(pool: Pool): Promise<Participant> {
  await pool.query('create table if not exists reservations (id text, sku text, state text)')
  const barrier = await postgresBarrier(pool)
  const reserve = defineStep(inventory.reserve.type, {
    action: (order, call) =>
      barrier.step(call, pool, async (client) => {
        if (order.sku === 'sold-out') throw refuse(`${order.sku} is sold out`, 'soldOut')
        await client.query(`insert into reservations values ($1, $2, 'reserved')`, [order.id, order.sku])
        return { reservation: order.id }
      }),
    compensation: (order, _result, call) =>
      barrier.step(call, pool, async (client) => {
        await client.query(`update reservations set state = 'released' where id = $1`, [order.id])
      }),
  })
  const ship = defineStep(inventory.ship.type, {
    action: ({ reservation }, call) =>
      barrier.step(call, pool, async (client) => {
        await client.query(`update reservations set state = 'shipped' where id = $1`, [reservation])
        return { parcel: `parcel of ${reservation}` }
      }),
  })
  return participant('inventory', { reserve, ship }, { barrier })
}

/** Charges, and looks for fraud. A price of 666 cents is declined; an id that ends with `fraud` is refused. */
export async function paymentsService(pool: Pool): Promise<Participant> {
  await pool.query('create table if not exists charges (id text, cents int)')
  const barrier = await postgresBarrier(pool)
  const charge = defineStep(payments.charge.type, {
    action: (order, call) =>
      barrier.step(call, pool, async (client) => {
        if (order.cents === 666) throw refuse('the card is declined', 'declined')
        await client.query('insert into charges values ($1, $2)', [order.id, order.cents])
        return { charge: order.id }
      }),
    compensation: (order, _result, call) =>
      barrier.step(call, pool, async (client) => {
        await client.query('insert into charges values ($1, $2)', [order.id, -order.cents])
      }),
  })
  const fraudCheck = defineStep(payments['fraud-check'].type, {
    action: (order) => {
      if (order.id.endsWith('fraud')) throw refuse('it looks like fraud', 'fraud')
      return undefined
    },
  })
  return participant('payments', { charge, 'fraud-check': fraudCheck }, { barrier })
}

/** Keeps the orders that are confirmed. */
export async function ordersService(pool: Pool): Promise<Participant> {
  await pool.query('create table if not exists orders (id text, cents int)')
  const barrier = await postgresBarrier(pool)
  const confirm = defineStep(orders.confirm.type, {
    action: (order, call) =>
      barrier.step(call, pool, async (client) => {
        await client.query('insert into orders values ($1, $2)', [order.id, order.cents])
        return undefined
      }),
  })
  return participant('orders', { confirm }, { barrier })
}
