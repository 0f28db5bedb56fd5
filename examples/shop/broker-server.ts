/** The server of the broker: the one that BROKER_URL names, or one of our own, where its programs are installed. */
import type { BrokerKind } from './broker.ts'

/** A broker's server, ready. */
export interface OpenBroker {
  /** What the processes of the shop are told. */
  readonly env: Readonly<Record<string, string>>
  /** Which server it is, for people. */
  readonly server: string
  stop(): Promise<void>
}

/** Opens it. Throws with what to do where there is none. */
export async function openBroker(kind: BrokerKind, given: string | undefined): Promise<OpenBroker> {
  const env = (url: string) => ({ SHOP_BROKER: kind, SHOP_BROKER_URL: url })
  if (given !== undefined) return { env: env(given), server: `${kind} of BROKER_URL`, stop: async () => {} }
  try {
    // The servers that the tests start, with fsync as in production.
    const { startBroker } = await import('../../test/services/brokers.ts')
    const { service, url } = await startBroker(kind)
    const server = `${kind} ${service.version}, ${service.backend}, ${new URL(url).host}`
    return { env: env(url), server, stop: () => service.stop() }
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new Error(
      `no ${kind} to use: ${why}. Name one in BROKER_URL, or install it: npm run services:setup, as root on Debian`,
      { cause: error },
    )
  }
}
