import { EscrowError } from '../core/errors.ts'
import { parseName, parseNamespace } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { ConnectionState } from './connection.ts'

/** Options of a session. */
export interface SessionOptions {
  /** The service's name: what its handlers are reached by, `service/handler`. */
  readonly service: string
  /** The namespace of everything in this session. Default `default`. */
  readonly namespace?: string | undefined
  /** How many deliveries it takes at once. Default 256; 0-65,536. */
  readonly deliveriesMax?: number | undefined
  /** How many check-backs it takes at once. Default 64; 0-65,536. */
  readonly checkBacksMax?: number | undefined
  /** How many calls of steps it takes at once. Default 256; 0-65,536. */
  readonly stepsMax?: number | undefined
  /** How long `connect` tries until the first welcome. Default 10,000; 1-3,600,000. */
  readonly connectTimeoutMs?: number | undefined
  /** How long `close` waits for what is unanswered. Default 5,000; 0-3,600,000. */
  readonly closeTimeoutMs?: number | undefined
  /** Told at every change of the connection, for logs. What it throws is lost. */
  readonly onConnection?: ((state: ConnectionState) => void) | undefined
  /** Clock, randomness and scheduling. */
  readonly runtime: Runtime
}

/** Checks and completes the options of a session. Throws `invalidArgument`. */
export function parseSessionOptions(options: SessionOptions) {
  return Object.freeze({
    namespace: parseNamespace(options.namespace ?? ''),
    service: parseName('service', options.service),
    deliveriesMax: bounded('deliveriesMax', options.deliveriesMax ?? 256, 0, 65_536),
    checkBacksMax: bounded('checkBacksMax', options.checkBacksMax ?? 64, 0, 65_536),
    stepsMax: bounded('stepsMax', options.stepsMax ?? 256, 0, 65_536),
    connectTimeoutMs: bounded('connectTimeoutMs', options.connectTimeoutMs ?? 10_000, 1, 3_600_000),
    closeTimeoutMs: bounded('closeTimeoutMs', options.closeTimeoutMs ?? 5000, 0, 3_600_000),
    onConnection: options.onConnection,
    runtime: options.runtime,
  })
}

/** Checks a number of an option. Throws `invalidArgument`, naming the value and the bounds. */
export function bounded(name: string, value: number, min: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new EscrowError(
    'invalidArgument',
    `${name} is ${value}, allowed are whole numbers from ${min} to ${max}`,
  )
}
