/** Has what is asked while one run is under way answered by the next one, together. */

interface Waiting<Item, Answer> {
  readonly item: Item
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: unknown) => void
}

/** What a coalescer needs. */
export interface CoalescerOptions<Item, Answer> {
  /** Answers all items, in their order. What it rejects with, each of them does. */
  readonly run: (items: readonly Item[]) => Promise<readonly Answer[]>
  /** What one item weighs, and what those of one run may weigh together; one alone may be heavier. */
  readonly weigh: (item: Item) => number
  readonly weightMax: number
}

/**
 * One run is under way at a time. An item belongs to a run that begins after it came, so that what a run reads was true at
 * some moment after each of its items was asked. Its callers bound it: a log has one append, or one look, under way.
 */
export class Coalescer<Item, Answer> {
  readonly #options: CoalescerOptions<Item, Answer>
  #waiting: Waiting<Item, Answer>[] = []
  #isRunning = false

  constructor(options: CoalescerOptions<Item, Answer>) {
    this.#options = options
  }

  ask(item: Item): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject })
      if (this.#isRunning) return
      this.#isRunning = true
      // After what is asked in this turn of the event loop.
      queueMicrotask(() => void this.#run())
    })
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const taken = this.#take()
      try {
        const answers = await this.#options.run(taken.map(({ item }) => item))
        for (const [at, { resolve }] of taken.entries()) resolve(answers[at] as Answer)
      } catch (error) {
        for (const { reject } of taken) reject(error)
      }
    }
    this.#isRunning = false
  }

  #take(): readonly Waiting<Item, Answer>[] {
    const { weigh, weightMax } = this.#options
    let count = 0
    let weight = 0
    for (const { item } of this.#waiting) {
      weight += weigh(item)
      if (count > 0 && weight > weightMax) break
      count += 1
    }
    return this.#waiting.splice(0, count)
  }
}
