import { EscrowError } from '../core/errors.ts'
import { type ExecutionId, type Namespace, SLOTS, slotOf } from '../core/ids.ts'
import type { LogHandle } from '../store/log.ts'
import type { Store } from '../store/store.ts'
import type { LogProgress } from './cluster-entries.ts'
import { LogDriver } from './log-driver.ts'
import type { LogDriverOptions } from './log-driver-options.ts'
import { ExecutionMinting } from './minting.ts'
import type { Outlet } from './outlet.ts'
import { recover } from './recovery.ts'
import type { StepName } from './step-outlet.ts'

/** What logs need of the world: what each driver does, but for what is its own. */
export interface LogsOptions
  extends Omit<LogDriverOptions, 'store' | 'handle' | 'recovered' | 'onStopped' | 'onDegraded'> {
  readonly store: Store
  /** A log stopped for a reason of its own: fenced, or a store that must be opened again. */
  readonly onStopped: (log: number, error: EscrowError) => void
  /** The store doesn't answer one log (a reason), or does again (empty). */
  readonly onDegraded: (log: number, reason: string) => void
  readonly log: (level: 'info', message: string) => void
}

/** The logs of one store that this node drives, as long as the store is open. */
export class Logs {
  readonly #options: LogsOptions
  readonly #drivers: (LogDriver | undefined)[]
  /** Of the first claim: unique for ever, whoever has that log later. */
  #minting: ExecutionMinting | undefined
  #isOver = false

  constructor(options: LogsOptions) {
    this.#options = options
    this.#drivers = new Array(options.store.log.logs).fill(undefined)
  }

  /** How many the store has. */
  get count(): number {
    return this.#drivers.length
  }

  /** The number of the log that an id belongs to. */
  logOf(id: string): number {
    return Math.floor((slotOf(id) * this.#drivers.length) / SLOTS)
  }

  /** Drives this log, or doesn't. */
  at(log: number): LogDriver | undefined {
    return this.#drivers[log]
  }

  /** Those that are driven here, by number. */
  *driven(): Generator<[number, LogDriver]> {
    for (const [at, driver] of this.#drivers.entries()) if (driver !== undefined) yield [at, driver]
  }

  /** How far those are. */
  progress(): readonly LogProgress[] {
    return Array.from(this.driven(), ([, driver]) => driver.progress)
  }

  /** Mints the id of an execution. Only where some log was claimed. */
  execution(): ExecutionId {
    if (this.#minting === undefined) throw new EscrowError('notOwner', 'this node has no log yet')
    return this.#minting.next()
  }

  /**
   * Takes a log over, recovers it and starts it; answers its epoch. Whoever had it is fenced from the first moment on.
   * Rejects with what the store does.
   */
  async claim(log: number): Promise<number> {
    const { store } = this.#options
    const handle = await store.log.claim(log)
    const { epoch } = handle.claimed
    const { storeId } = store.log
    this.#minting ??= new ExecutionMinting({ storeId, epoch, ...(this.count > 1 && { log }) })
    await this.#drive(handle)
    return epoch
  }

  async #drive(handle: LogHandle): Promise<void> {
    const { store, onStopped, onDegraded, log: tell, ...shared } = this.#options
    const { log } = handle
    const recovered = await recover(store, handle)
    const driver = new LogDriver({
      ...shared,
      store,
      handle,
      recovered,
      onStopped: (error) => {
        if (this.#drivers[log] === driver) this.#drivers[log] = undefined
        onStopped(log, error)
      },
      onDegraded: (reason) => onDegraded(log, reason),
    })
    await driver.start()
    if (this.#isOver) driver.stop(closed())
    // Not before: what holds a key back must be in memory when the first request comes.
    if (!driver.isStopped) {
      this.#drivers[log] = driver
      onDegraded(log, '')
    }
    if (recovered.entries.size > 0)
      tell('info', `log ${log}: recovered ${recovered.entries.size} transactions from its tail`)
  }

  /** Makes durable what a log has taken, and gives it up in good order. */
  async giveUp(log: number): Promise<void> {
    await this.#drivers[log]?.handOver()
  }

  /** The same for all. */
  async drain(): Promise<void> {
    this.#isOver = true
    await Promise.all(this.#drivers.map((driver) => driver?.drain()))
  }

  /** Forgets all at once, as by a crash. */
  stop(reason: EscrowError): void {
    this.#isOver = true
    for (const driver of this.#drivers) driver?.stop(reason)
  }

  /** There may be room for a delivery, or a checker may have come. */
  roomAt(namespace: Namespace, what: Parameters<Parameters<Outlet['onRoom']>[0]>[1]): void {
    for (const [, driver] of this.driven()) driver.agenda.roomAt(namespace, what)
  }

  /** The same for a step. */
  roomAtStep(namespace: Namespace, name: StepName): void {
    for (const [, driver] of this.driven()) driver.agenda.roomAtStep(namespace, name)
  }
}

const closed = (): EscrowError => new EscrowError('storeUnavailable', 'the store is being closed')
