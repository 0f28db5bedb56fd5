/**
 * Kills each process several times, at moments that know nothing of what it is doing: the time of the work is cut into
 * equal windows, and in each window each process is killed once, at a time drawn uniformly from it. A kill counts when
 * the process was ready and had work in flight; what it had is read from the pipe that outlived it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Ledger } from './ledger.ts'
import { hash, randomFrom } from './random.ts'
import type { Supervised } from './supervisor.ts'

/** How many kills with work in flight each process must get, or the run has shown nothing. */
export const killsMin = 5
/** One more than needed, as a moment without work in flight may be drawn. */
const windows = 6
/** For moments without work in flight, and for a machine so slow that it restarts for longer than it works. */
const extraKillsMax = 20
const paceMs = 50

/** One kill. */
export interface KillRecord {
  readonly victim: string
  readonly counts: boolean
  /** From the kill until it was ready again; undefined while it isn't. */
  backMs: number | undefined
}

export interface KillOptions {
  readonly seed: number
  /** Over how long the windows extend, from the call of `run`, in milliseconds. */
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
  #isOver = false

  constructor(options: KillOptions) {
    this.#options = options
  }

  /** Resolves when each process has had its kills, or no work is left, and all of them are back. */
  async run(): Promise<void> {
    const { seed, spanMs, victims, print } = this.#options
    print(
      `kills: seed ${seed}, each process once in each of ${windows} windows of ${seconds(spanMs / windows)}`,
    )
    this.#pace()
    await Promise.all(victims.map((victim) => this.#killAll(victim)))
    this.#isOver = true
    await Promise.all(this.#recoveries)
  }

  /** Allows ever fewer orders a second, so that there is work for as long as there are kills, and then all of them. */
  #pace(): void {
    const { orders, spanMs, ledger, allow } = this.#options
    let share = 1
    // Told again and again: the order desk may be starting anew just now.
    const pacing = setInterval(() => {
      share *= Math.exp(-paceMs / spanMs)
      allow(this.#isOver ? orders : Math.ceil(orders * (1 - share)))
      if (ledger.finished) clearInterval(pacing)
    }, paceMs)
    pacing.unref()
  }

  /** How many kills of this process had work in flight. */
  counted(victim: string): number {
    return this.records.filter((record) => record.victim === victim && record.counts).length
  }

  async #killAll(victim: Supervised): Promise<void> {
    const { seed, spanMs, ledger } = this.#options
    // Its own sequence, so that its times follow from the seed whatever becomes of the others.
    const random = randomFrom(seed ^ hash(victim.name))
    const windowMs = spanMs / windows
    const times = Array.from({ length: windows }, (_, window) => (window + random()) * windowMs)
    for (const at of times) {
      await sleep(Math.max(0, this.#startedAt + at - performance.now()))
      if (ledger.finished) return
      await this.#kill(victim)
    }
    for (let extra = 1; extra <= extraKillsMax && this.counted(victim.name) < killsMin; extra += 1) {
      await victim.ready()
      await sleep((random() * windowMs) / 2)
      if (ledger.finished) return
      await this.#kill(victim)
    }
  }

  async #kill(victim: Supervised): Promise<void> {
    const { ledger, print } = this.#options
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
