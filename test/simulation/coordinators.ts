/**
 * Who drives a simulated store: one coordinator that has it to itself, or nodes that share its logs.
 *
 * | what happens  | to one alone                  | to one of several nodes                                                        |
 * |---------------|-------------------------------|--------------------------------------------------------------------------------|
 * | it is killed  | another one starts            | others take its logs over, or it is back before its lease is over              |
 * | it lives on   | and another one replaces it   | stopped in its tracks, without its store, or silent, for half a lease to three |
 * | it is cut off |                               | from another node, which it forwards to                                        |
 * | it leaves     |                               | in good order: its logs are handed over                                        |
 */
import type { Operation, Operations } from '../../src/core/api.ts'
import type { EngineOptions } from '../../src/engine/engine.ts'
import { type ClusterWorld, LEASE_MS, type Node } from '../engine/cluster-world.ts'
import type { Answer, Coordinator } from '../engine/world.ts'

/** What coordinators are made of. */
export interface CoordinatorsOptions {
  readonly world: ClusterWorld
  /** How many nodes; 0: one alone. */
  readonly nodes: number
  readonly random: () => number
  readonly overrides?: Partial<EngineOptions>
  readonly note: (what: string) => void
}

const START_PAUSE_MS = 100
/** Who can't reach these is silent to the others and doesn't see them, but goes on with its logs. */
const DIRECTORY = ['get', 'list', 'compareAndSet', 'remove'] as const
/** As often, and after such pauses, a request is made again: for as long as an owner may be looked for. */
const ASKED_MAX = 20
const ASKED_PAUSE_MS = LEASE_MS / 10
/** Beyond it a node that leaves is killed, as whoever operates it would. */
const LEFT_MS_MAX = 2 * LEASE_MS

/** The coordinators of one simulation. */
export class Coordinators {
  readonly #options: CoordinatorsOptions
  readonly #names: readonly string[]
  #alone: Coordinator | undefined
  /** Those whose logs others have taken, or are about to take, without their knowing it. */
  #zombies: readonly Coordinator[] = []
  /** One at a time, so that somebody always stays. */
  #leaving: Node | undefined

  constructor(options: CoordinatorsOptions) {
    this.#options = options
    this.#names = ['a:1', 'b:1', 'c:1'].slice(0, options.nodes)
  }

  /** Those that a client may talk to, now that all have started. */
  get running(): readonly Coordinator[] {
    return this.#alone === undefined ? [...this.#options.world.nodes.values()] : [this.#alone]
  }

  /** Somebody's idea of a coordinator: mostly one that shouldn't be believed, if there is any. */
  believed(): Coordinator {
    return this.#pick(this.#zombies.length > 0 && this.#options.random() < 0.7 ? this.#zombies : this.running)
  }

  #pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.#options.random() * from.length)] as T
  }

  #missing(): string | undefined {
    return this.#names.find((name) => !this.#options.world.nodes.has(name))
  }

  /** Starts whoever isn't there, as often as that takes. */
  async start(): Promise<void> {
    const { world, overrides, note } = this.#options
    while (this.#names.length === 0 ? this.#alone === undefined : this.#missing() !== undefined) {
      try {
        const name = this.#missing()
        if (name === undefined) this.#alone = await world.start(overrides)
        else await world.startNode(name, overrides)
      } catch (error) {
        note(`could not start: ${(error as Error).message}`)
        await world.clock.advance(START_PAUSE_MS)
      }
    }
  }

  /** One of them dies, or seems to. */
  async crash(): Promise<void> {
    const { world, random } = this.#options
    // One that left is back.
    await this.start()
    if (this.#names.length > 0) return this.#disturb(this.#pick([...world.nodes.values()]))
    if (random() < 0.7) this.#alone?.kill()
    else if (this.#alone !== undefined) this.#zombies = [...this.#zombies, this.#alone]
    this.#options.note('crash')
    this.#alone = undefined
    if (random() < 0.5) await world.clock.advance(random() * 3_000)
    await this.start()
  }

  async #disturb(node: Node): Promise<void> {
    const { world, random, note } = this.#options
    const choice = this.#pick([
      'killed',
      'killed',
      'stopped',
      'without its store',
      'silent',
      'cut off',
      'leaves',
    ] as const)
    note(`${node.name} ${choice}`)
    switch (choice) {
      case 'killed':
        world.killNode(node)
        // Mostly it is back at once; otherwise the others take over.
        if (random() < 0.4) await world.clock.advance(random() * 2 * LEASE_MS)
        return this.start()
      case 'stopped':
        return this.#haunt(node, node.freeze())
      case 'without its store':
        return this.#haunt(node, node.loseStore())
      case 'silent':
        return this.#haunt(node, node.loseStore(DIRECTORY))
      case 'cut off': {
        const link = `${node.name} ${this.#pick(this.#names)}`
        world.cut.add(link)
        return this.#later(random() * LEASE_MS, () => world.cut.delete(link))
      }
      default:
        return this.#leave(node)
    }
  }

  /** Has a node be a zombie for a while; `end` ends that. */
  #haunt(node: Node, end: () => void): void {
    this.#zombies = [...this.#zombies, node]
    this.#later((0.5 + this.#options.random() * 2.5) * LEASE_MS, () => {
      this.#zombies = this.#zombies.filter((zombie) => zombie !== node)
      end()
    })
  }

  #later(delayMs: number, callback: () => void): void {
    this.#options.world.clock.setTimer(callback, delayMs)
  }

  /** What its store keeps it from is left to its lease. */
  #leave(node: Node): void {
    if (this.#leaving !== undefined) return
    this.#leaving = node
    const { world } = this.#options
    const gone = (): void => {
      if (this.#leaving !== node) return
      this.#leaving = undefined
      if (world.nodes.get(node.name) === node) world.killNode(node)
    }
    const left = node.engine.leave().then(() => node.engine.stop())
    left.then(gone, gone)
    // Unless it is killed first, or stopped in its tracks: then this ends it.
    this.#later(LEFT_MS_MAX, gone)
  }

  /** Asks any of them as a patient client does: again while it is told that the log is elsewhere, or on its way. */
  async ask<Op extends Operation>(op: Op, request: Operations[Op]['request']): Promise<Answer<Op>> {
    const { world } = this.#options
    for (let left = ASKED_MAX; ; left--) {
      const answer = world.ask(op, request, { of: this.#pick(this.running) })
      await world.clock.until(() => answer.count > 0)
      if (answer.error?.code !== 'notOwner' || left === 0) return answer
      await world.clock.advance(ASKED_PAUSE_MS)
    }
  }

  /** Lets every fault end, and has all of them run. */
  async heal(): Promise<void> {
    const { world } = this.#options
    this.#alone?.kill()
    this.#alone = undefined
    if (this.#names.length > 0) await world.clock.advance(4 * LEASE_MS)
    await this.start()
    if (this.#names.length > 0) await world.balanced(60_000)
  }
}
