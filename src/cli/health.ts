import { EscrowError } from '../core/errors.ts'
import { type Command, parse, UsageError } from './command.ts'

const TIMEOUT_MS = 5_000
const ADDRESS = '127.0.0.1:7410'

/** The help of the option that says where. */
export const HTTP_HELP = `  --http-address HOST:PORT  where it speaks HTTP, default ${ADDRESS}`

/** Parses that option. Throws `UsageError`. */
export function httpAddress(given = ADDRESS): string {
  if (/^[^\s/]+:\d{1,5}$/.test(given)) return given
  throw new UsageError(`--http-address ${JSON.stringify(given)} is not HOST:PORT`)
}

/** `escrow health`. */
export const health: Command = {
  name: 'health',
  summary: 'says whether a coordinator is ready',
  help: `Usage: escrow health [--http-address HOST:PORT]

Asks a running coordinator whether it is ready. Ends with 0 if it is, with 3 if it is not or nobody answers.

${HTTP_HELP}`,
  async run(args) {
    const { values } = parse(args, { options: { 'http-address': { type: 'string' } } })
    const { state, reason } = await ask(httpAddress(values['http-address']))
    console.log(reason === '' || reason === state ? state : `${state}: ${reason}`)
    return state === 'ready' ? 0 : 3
  },
}

async function ask(address: string): Promise<{ state: string; reason: string }> {
  try {
    const answer = await fetch(`http://${address}/readyz`, { signal: AbortSignal.timeout(TIMEOUT_MS) })
    const body = (await answer.json()) as { state?: unknown; reason?: unknown }
    return { state: String(body.state), reason: String(body.reason ?? '') }
  } catch (cause) {
    throw new EscrowError('disconnected', `no coordinator answers at http://${address}/readyz`, { cause })
  }
}
