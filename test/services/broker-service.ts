import type { FaultProxy } from './fault-proxy.ts'

/** A broker's server as tests use it: reached through a proxy whose address outlives it. */
export interface BrokerService {
  readonly backend: 'docker' | 'native' | 'embedded'
  readonly version: string
  /** Of the proxy: 127.0.0.1. */
  readonly host: string
  /** Of the proxy. */
  readonly port: number
  readonly proxy: FaultProxy
  /** Nothing answers, and connections stay. */
  pause(): Promise<void>
  resume(): Promise<void>
  /** As when the power fails; the data stays. */
  kill(): Promise<void>
  /** Starts it again on its data; resolves when it answers. */
  start(): Promise<void>
  /** Ends it, and removes its data. */
  stop(): Promise<void>
}
