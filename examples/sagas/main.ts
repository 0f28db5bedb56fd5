/** Places five orders: `node examples/sagas/main.ts`. Everything is in this process but the databases. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Pool } from 'pg'
import { createCoordinator } from '../../src/index.ts'
import { startEmbeddedPostgres } from '../shop/embedded-postgres.ts'
import { inventoryService, ordersService, paymentsService } from './participants.ts'
import { type Order, placeOrder } from './place-order.ts'

const wanted: readonly Order[] = [
  { id: 'o-1', sku: 'book', cents: 4_200 },
  { id: 'o-2', sku: 'sold-out', cents: 4_200 },
  { id: 'o-3', sku: 'book', cents: 666 },
  { id: 'o-4-fraud', sku: 'book', cents: 4_200 },
  { id: 'o-5', sku: 'piano', cents: 500_000 },
]

const folder = mkdtempSync(join(tmpdir(), 'escrow-sagas-'))
const postgres = await startEmbeddedPostgres()
const open = async (name: string): Promise<Pool> => {
  const pool = new Pool({ connectionString: await postgres.database(name) })
  // An idle connection that the server ends is replaced when it is needed: no reason to end the process.
  pool.on('error', () => {})
  return pool
}
const pools = {
  inventory: await open('inventory'),
  payments: await open('payments'),
  orders: await open('orders'),
}
// The same definition runs on a server: see escrow.config.ts.
const coordinator = createCoordinator({
  store: { path: folder },
  grpc: { port: 0 },
  http: { port: 0 },
  sagas: [placeOrder],
})
await coordinator.start()
const target = `127.0.0.1:${coordinator.addresses.grpc?.port}`
const services = await Promise.all([
  inventoryService(pools.inventory),
  paymentsService(pools.payments),
  ordersService(pools.orders),
])
const sessions = await Promise.all(services.map((service) => service.connect(target)))
const session = await coordinator.connect({ service: 'order-desk' })

for (const order of wanted) {
  await session.startSaga({ saga: placeOrder, id: order.id, input: order })
  // A person looks at what is dear. A signal that comes before the saga waits for it is kept.
  if (order.cents > 100_000) await session.signal({ id: order.id, signal: 'approved' })
}
for (const { id } of wanted) {
  const { status, output, error } = await session.waitForSaga({ id, saga: placeOrder })
  console.log(`${id.padEnd(10)} ${status.padEnd(12)} ${output?.parcel ?? error}`)
}
const { rows: reservations } = await pools.inventory.query('select id, state from reservations order by id')
const { rows: charged } = await pools.payments.query('select sum(cents)::int as cents from charges')
const { rows: confirmed } = await pools.orders.query('select sum(cents)::int as cents from orders')
console.log(`reservations: ${reservations.map(({ id, state }) => `${id} ${state}`).join(', ')}`)
console.log(`charged ${charged[0].cents} cents for orders of ${confirmed[0].cents}`)

await Promise.all([...sessions, session].map((each) => each.close()))
await coordinator.stop()
await Promise.all(Object.values(pools).map((pool) => pool.end()))
await postgres.stop()
rmSync(folder, { recursive: true, force: true })
