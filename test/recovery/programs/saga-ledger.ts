/** A participant that runs the steps of sagas behind a barrier, and notes each effect in a table without keys. */
import { Pool } from 'pg'
import {
  defineStep,
  participant,
  postgresBarrier,
  refuse,
  type StepCall,
  stepType,
} from '../../../src/index.ts'

const { ESCROW_ADDRESS = '', DATABASE_URL = '' } = process.env
const pool = new Pool({ connectionString: DATABASE_URL, max: 8 })
pool.on('error', () => {})
const barrier = await postgresBarrier(pool)

interface Order {
  readonly id: string
  readonly isRefused: boolean
}

const note = (call: StepCall, step: string, id: string) =>
  barrier.step(call, pool, async (client) => {
    await client.query('insert into effects (saga, step) values ($1, $2)', [id, step])
  })

const step = (name: string, compensation: boolean) =>
  defineStep(stepType<Order, undefined>(), {
    action: async (order, call) => {
      if (name === 'charge' && order.isRefused) {
        await barrier.step(call, pool, () => {
          throw refuse('declined', 'declined')
        })
      }
      await note(call, name, order.id)
    },
    ...(compensation && {
      compensation: async (order: Order, _result: undefined, call: StepCall) =>
        await note(call, `-${name}`, order.id),
    }),
  })

await participant(
  'ledger',
  {
    reserve: step('reserve', true),
    charge: step('charge', true),
    confirm: step('confirm', false),
    ship: step('ship', false),
  },
  { barrier },
).connect(ESCROW_ADDRESS)
console.log('ready')
