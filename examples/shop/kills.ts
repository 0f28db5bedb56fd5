/**
 * Kills each process several times, at moments that know nothing of what it is doing: there are windows of equal length,
 * and in each window each process is killed once, at a time drawn uniformly from it. A window begins when all are back
 * from the one before and some order has ended since, so that a slow machine has its work interrupted, not prevented. A
 * kill counts when the process was ready and had work in flight; what it had is read from the pipe that outlived it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Ledger } from './ledger.ts'
import { hash, randomFrom } from './random.ts'
import type { Supervised } from './supervisor.ts'

/** How many kills with work in flight each process must get, or the run has shown nothing. */
export const killsMin = 5
/** One more than needed, as a moment without work in flight may be drawn. */
const windows = 6
/** For moments without work in flight: half as long, and only for those who need it. */
const extraWindowsMax = 20
const paceMs = 50
const pollMs = 20

/** One kill. */
export interface KillRecord {
  readonly victim: string
  readonly counts: boolean
  /** From the kill until it was ready again; undefined while it isn't. */
  backMs: number | undefined
}

export interface KillOptions {
  readonly seed: number
  /** How long the windows are in all, without what lies between them, in milliseconds. */
  readonly spanMs: number
  readonly victims: readonly Supervised[]
  readonly ledger: Ledger
  /** How many orders there are. */
  readonly orders: number
  /** Told again and again how many orders may be begun. */
  allow(orders: number): void
  print(line: string): void
}

/** Runs the kills. */
export class Killer {
  readonly records: KillRecord[] = []
  readonly #options: KillOptions
  readonly #startedAt = performance.now()
  readonly #recoveries: Promise<void>[] = []
  #allowed = 0
  #isInWindow = false
  #isOver = false

  constructor(options: KillOptions) {
    this.#options = options
  }

  /** Resolves when each process has had its kills, or no work is left, and all of them are back. */
  async run(): Promise<void> {
    const { seed, spanMs, victims, ledger, print } = this.#options
    const windowMs = spanMs / windows
    print(`kills: seed ${seed}, each process once in each of ${windows} windows of ${seconds(windowMs)}`)
    this.#pace()
    // Each has its own sequence, so that its times follow from the seed whatever becomes of the others.
    const sequences = new Map(victims.map(({ name }) => [name, randomFrom(seed ^ hash(name))]))
    for (let window = 1; window <= windows + extraWindowsMax && !ledger.finished; window += 1) {
      const isExtra = window > windows
      const due = isExtra ? victims.filter(({ name }) => this.counted(name) < killsMin) : victims
      if (due.length === 0) break
      const lengthMs = isExtra ? windowMs / 2 : windowMs
      this.#isInWindow = true
      const kills = due.map((victim) => this.#kill(victim, sequences.get(victim.name)!() * lengthMs))
      await Promise.all([...kills, sleep(lengthMs)])
      this.#isInWindow = false
      await this.#between()
    }
    this.#isOver = true
    await Promise.all(this.#recoveries)
  }

  /** Waits until all are back and an order has ended since, if there is one that can. The shop bounds a wait for nothing. */
  async #between(): Promise<void> {
    const { victims, ledger } = this.#options
    const ended = ledger.outcomes.size
    await Promise.all(victims.map((victim) => victim.ready()))
    while (ledger.outcomes.size === ended && ended < this.#allowed && !ledger.finished) await sleep(pollMs)
  }

  /** Allows ever fewer orders a second, so that there is work for as long as there are kills, and then all of them. */
  #pace(): void {
    const { orders, spanMs, ledger, allow } = this.#options
    let share = 1
    // Told again and again: the order desk may be starting anew just now.
    const pacing = setInterval(() => {
      if (this.#isInWindow) share *= Math.exp(-paceMs / spanMs)
      this.#allowed = this.#isOver ? orders : Math.ceil(orders * (1 - share))
      allow(this.#allowed)
      if (ledger.finished) clearInterval(pacing)
    }, paceMs)
    pacing.unref()
  }

  /** How many kills of this process had work in flight. */
  counted(victim: string): number {
    return this.records.filter((record) => record.victim === victim && record.counts).length
  }

  async #kill(victim: Supervised, afterMs: number): Promise<void> {
    await sleep(afterMs)
    const { ledger, print } = this.#options
    if (ledger.finished) return
    const at = performance.now()
    const time = seconds(at - this.#startedAt)
    const heldBefore = ledger.heldByCoordinator()
    const killed = await victim.kill()
    if (killed === undefined) return print(`kill at ${time}: ${victim.name} was down at that moment`)
    // The coordinator tells us nothing of its own: what others waited for it to do, both before and after its death.
    const work =
      victim.name === 'coordinator'
        ? heldBefore.intersection(ledger.heldByCoordinator())
        : ledger.atDeath(victim.name)
    const counts = killed.wasReady && work.size > 0
    const had = killed.wasReady ? `${work.size || 'nothing'} in flight` : 'still starting'
    print(`kill at ${time}: ${victim.name} (pid ${killed.pid}), ${had}${counts ? '' : ': does not count'}`)
    const record: KillRecord = { victim: victim.name, counts, backMs: undefined }
    this.records.push(record)
    const recovery = this.#recovery(victim, record, at)
    this.#recoveries.push(recovery)
    // Heard at the end of the run, if there is one: the shop may be stopped before.
    recovery.catch(() => {})
  }

  async #recovery(victim: Supervised, record: KillRecord, killedAt: number): Promise<void> {
    await victim.ready()
    record.backMs = performance.now() - killedAt
    this.#options.print(`${victim.name} is back after ${seconds(record.backMs)}`)
  }
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(2)} s`
}
