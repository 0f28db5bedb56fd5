import { numberOf, UsageError } from './command.ts'

/** Where the coordinator is, and how long its answer is waited for. */
export interface ClientOptions {
  /** `host:port`, or several with commas. */
  readonly address: string
  readonly namespace: string | undefined
  readonly timeoutMs: number
  readonly json: boolean
}

/** The options that every command has that asks a coordinator. */
export const CLIENT_FLAGS = {
  address: { type: 'string' },
  namespace: { type: 'string' },
  'timeout-ms': { type: 'string' },
  json: { type: 'boolean' },
} as const

/** Their help. */
export const CLIENT_HELP = `  --address HOST:PORT    where it speaks gRPC, default 127.0.0.1:7411; of several nodes each, with commas
  --namespace NAMESPACE  default \`default\`
  --timeout-ms N         how long to wait for the answer, default 10000
  --json                 prints the answer as JSON`

/** Parses those options. Throws `UsageError`. */
export function clientOptions(values: Record<string, unknown>): ClientOptions {
  const address = (values.address as string | undefined) ?? '127.0.0.1:7411'
  if (!/^[^\s/,]+:\d{1,5}(,[^\s/,]+:\d{1,5})*$/.test(address))
    throw new UsageError(`--address ${JSON.stringify(address)} is not HOST:PORT, or several with commas`)
  return {
    address,
    namespace: values.namespace as string | undefined,
    timeoutMs: numberOf('--timeout-ms', values['timeout-ms'] as string | undefined, 1, 3_600_000) ?? 10_000,
    json: values.json === true,
  }
}
