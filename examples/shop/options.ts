/** The command line of the shop. */
import { parseArgs } from 'node:util'
import { type BrokerKind, brokerKinds, isBrokerKind } from './broker.ts'

export const usage = `npm start -- [options]

Runs a small shop: a coordinator, an order desk, inventory, payment and audit, each a process of its own, with a real
PostgreSQL database each. Each order is a saga: reserve, charge and check for fraud, confirm, ship, send the confirmation.
When all have ended, completed or undone, the books of all services are compared with the input, to the cent.

  --orders FILE   orders as JSON lines, - for standard input (default: examples/shop/orders.jsonl)
  --once          end when the books are compared, instead of staying up for a look until Ctrl-C
  --kill          kill the coordinator and each service again and again while they work (SIGKILL)
  --broker KIND   send the confirmations over a broker, from which audit reads them: one of
                  ${brokerKinds.join(', ')}
                  (default: straight from the coordinator to audit)
  --seed N        the seed of the times of the kills, 0 to 4294967295 (default: one is drawn and printed)
  --help          print this

Environment: DATABASE_URL names a PostgreSQL to use instead of the embedded one; databases escrow_shop_… are made there.
BROKER_URL names the broker of --broker; without it one is started, if it is installed (npm run services:setup).

Ends with status 0 if all balances, 1 if anything doesn't or fails, 2 for a wrong command line, 130 or 143 when it was
interrupted before the books were compared.
`

/** What the shop was asked to do. */
export interface Options {
  /** A path, `-`, or undefined for the example file. */
  readonly orders: string | undefined
  readonly once: boolean
  readonly kill: boolean
  readonly seed: number | undefined
  readonly broker: BrokerKind | undefined
}

/** A command line that makes no sense; the message says why. */
export class UsageError extends Error {}

/** Reads the command line; undefined when help is asked for. Throws `UsageError`. */
export function parseOptions(args: readonly string[]): Options | undefined {
  let values: {
    orders?: string
    once?: boolean
    kill?: boolean
    seed?: string
    broker?: string
    help?: boolean
  }
  try {
    const flag = { type: 'boolean' } as const
    const text = { type: 'string' } as const
    const options = { orders: text, once: flag, kill: flag, seed: text, broker: text, help: flag }
    values = parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values
  } catch (error) {
    throw new UsageError((error as Error).message.split('. ')[0])
  }
  if (values.help === true) return undefined
  const { orders, once = false, kill = false } = values
  if (orders === '') throw new UsageError('--orders needs a file, or - for standard input')
  const seed = values.seed === undefined ? undefined : Number(values.seed)
  if (seed !== undefined && (!/^\d+$/.test(values.seed!) || seed >= 2 ** 32)) {
    throw new UsageError(`--seed "${values.seed}" is not a whole number from 0 to 4294967295`)
  }
  if (seed !== undefined && !kill) throw new UsageError('--seed is for the times of --kill, which is missing')
  const { broker } = values
  if (broker !== undefined && !isBrokerKind(broker))
    throw new UsageError(`--broker "${broker}" is not one of ${brokerKinds.join(', ')}`)
  return { orders, once, kill, seed, broker }
}
