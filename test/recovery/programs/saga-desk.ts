/**
 * Starts sagas, each a routing slip of four steps: `saga-desk.ts COUNT`. Of ten one is refused at its payment, and one cancelled.
 *
 * It tells `ready`, `started N` now and then, and `done` when each has ended.
 */
import { connect, EscrowError } from '../../../src/index.ts'

const { ESCROW_ADDRESS = '' } = process.env
const count = Number(process.argv[2])
const inFlightMax = 64
const policy = {
  retry: { delayMs: 20, delayMsMax: 500, attemptsMax: 1_000 },
  attemptTimeoutMs: 3_000,
}
const slip = Buffer.from(
  JSON.stringify({
    steps: [
      { name: 'reserve', action: 'ledger/reserve', compensation: true, ...policy },
      { name: 'charge', action: 'ledger/charge', compensation: true, ...policy },
      { name: 'confirm', action: 'ledger/confirm', pivot: true, ...policy },
      { name: 'ship', action: 'ledger/ship', ...policy },
    ],
  }),
)

const session = await connect(ESCROW_ADDRESS, { service: 'saga-desk' })
console.log('ready')

let next = 0
let ended = 0
await Promise.all(Array.from({ length: inFlightMax }, lane))
console.log('done')
await session.close()

async function lane(): Promise<void> {
  while (next < count) {
    const number = next++
    const id = `saga-${number}`
    const input = { id, isRefused: number % 10 === 1 }
    await insist(() => session.startSaga({ saga: '', id, slip, input }))
    if (number % 10 === 2) await insist(() => session.cancel({ id, reason: 'changed its mind' }))
    await insist(() => session.waitForSaga({ id }))
    ended += 1
    if (ended % 100 === 0) console.log(`ended ${ended}`)
  }
}

/** "Not now" and "nobody knows" are tried again under the same id, which is harmless. */
async function insist(work: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await work()
      return
    } catch (error) {
      if (error instanceof EscrowError && error.family !== 'refused') continue
      // A cancel that came too late: that saga goes forward.
      if (error instanceof EscrowError && ['pastPivot', 'alreadyEnded'].includes(error.code)) return
      console.log(`failed: ${String(error)}`)
      return
    }
  }
}
