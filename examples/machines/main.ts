/**
 * Books two trips, the second with a card that is declined, at the coordinator that
 * `escrow serve --config examples/machines/escrow.config.ts` runs: `node examples/machines/main.ts [HOST:PORT]`.
 */
import { connect } from '../../src/index.ts'
import { Ledger } from './ledger.ts'
import { connectParticipants } from './participants.ts'
import { bookTrip, type Trip } from './trip.ts'

const target = process.argv[2] ?? '127.0.0.1:7411'
const ledger = new Ledger()
const participants = await connectParticipants(target, ledger)
const desk = await connect(target, { service: 'trip-desk' })

for (const card of ['good', 'declined'] as const) {
  const name = `lisbon, ${card} card`
  const input: Trip = { name, price: 900, budget: 1_000, card, fullTimes: 1, askAgainMs: 300, holdMs: 500 }
  const { id } = await desk.startSaga({ saga: bookTrip, input })
  // Kept until the hotel is full: only then there is something to think over.
  await desk.signal({ id, signal: 'hold' })
  const { status, output, error } = await desk.waitForSaga({ id, saga: bookTrip })
  console.log(`${name}: ${status}`, output ?? error)
  for (const { step, operation } of ledger.effects.filter(({ trip }) => trip === name))
    console.log(`  ${operation === 'action' ? 'done  ' : 'undone'} ${step}`)
}
await Promise.all([desk, ...participants].map((session) => session.close()))
