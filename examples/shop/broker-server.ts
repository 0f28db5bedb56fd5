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
export async function openBroker(kind: BrokerKind, url: string | undefined): Promise<OpenBroker> {
  throw new Error(`${kind} ${url}`)
}
