/** A small machine for tests: a tree of steps, driven by what the tables say. It stands for a compiled definition. */
import type { Migrations } from '../../../src/core/saga/migrate.ts'
import type {
  Branch,
  Json,
  MachineState,
  SagaEvent,
  SagaProgram,
  StepPolicy,
  StepResults,
  Turn,
  TurnEffect,
} from '../../../src/core/saga/program.ts'

/** A flow: what stands in it is done in turn, at once, again, or in place of what failed. */
export type Flow =
  /** `leaveAfterMs`: its state is left then, whatever became of the step. */
  | { readonly kind: 'step'; readonly step: string; readonly leaveAfterMs?: number }
  | { readonly kind: 'seq'; readonly flows: readonly Flow[] }
  | { readonly kind: 'all'; readonly flows: readonly Flow[] }
  /** The second flow is entered when the first fails. */
  | { readonly kind: 'attempt'; readonly flows: readonly [Flow, Flow] }
  | { readonly kind: 'loop'; readonly flows: readonly [Flow]; readonly times: number }
  | { readonly kind: 'signal'; readonly signal: string }
  | { readonly kind: 'delay'; readonly delayMs: number }

export const step = (name: string, leaveAfterMs?: number): Flow =>
  leaveAfterMs === undefined ? { kind: 'step', step: name } : { kind: 'step', step: name, leaveAfterMs }
export const seq = (...flows: readonly Flow[]): Flow => ({ kind: 'seq', flows })
export const all = (...flows: readonly Flow[]): Flow => ({ kind: 'all', flows })
export const attempt = (flow: Flow, orElse: Flow): Flow => ({ kind: 'attempt', flows: [flow, orElse] })
export const loop = (times: number, flow: Flow): Flow => ({ kind: 'loop', flows: [flow], times })
export const signal = (name: string): Flow => ({ kind: 'signal', signal: name })
export const delay = (delayMs: number): Flow => ({ kind: 'delay', delayMs })

/** The machine's state as it is kept: leaves that wait, by path; and how often nodes were entered or joined. */
interface Kept {
  readonly running: Record<string, number>
  readonly counts: Record<string, number>
  readonly over: '' | 'completed' | 'failed'
}

class Live implements MachineState {
  readonly kept: Kept
  constructor(kept: Kept) {
    this.kept = kept
  }
  persist(): Json {
    return this.kept as unknown as Json
  }
  get text(): string {
    return JSON.stringify(this.kept)
  }
}

export const policy = (name: string, changes: Partial<StepPolicy> = {}): StepPolicy => ({
  step: name,
  service: 'shop',
  action: name,
  compensation: { service: 'shop', step: `un-${name}` },
  class: 'compensatable',
  destination: '',
  retry: { delayMs: 100, delayMsMax: 1_000, attemptsMax: 3 },
  attemptTimeoutMs: 50,
  stepTimeoutMs: 0,
  nonRetryable: ['HOPELESS'],
  concurrencyMax: 0,
  ratePerSecond: 0,
  ...changes,
})

export interface FakeOptions {
  readonly flow: Flow
  readonly policies: readonly StepPolicy[]
  readonly version?: number
  readonly signals?: readonly string[]
  /** Called with every event before its turn, and may throw as a user's guard does. */
  readonly guard?: (event: SagaEvent | 'start', results: StepResults) => void
  readonly migrations?: Migrations
  readonly parseResult?: (step: string, result: Json | undefined) => Json | undefined
}

export function fakeProgram(options: FakeOptions): SagaProgram {
  const { flow, guard } = options
  const none: StepResults = { get: () => undefined }
  return {
    name: 'fake',
    version: options.version ?? 1,
    hash: `hash-${options.version ?? 1}`,
    steps: new Map(options.policies.map((each) => [each.step, each])),
    signals: new Set(options.signals ?? []),
    timeoutMs: 0,
    parseInput: (input) => {
      if (input === 'wrong') throw new Error('the input is wrong')
      return input
    },
    parseResult: (name, result) => options.parseResult?.(name, result) ?? result,
    parseSignal: (_, payload) => {
      if (payload === 'wrong') throw new Error('the payload is wrong')
      return payload
    },
    start: (input) => {
      guard?.('start', none)
      const walk = new Walk(flow, { running: {}, counts: {}, over: '' })
      walk.enter('', [])
      return walk.turn(input ?? null)
    },
    next: (state, event, results) => {
      guard?.(event, results)
      const walk = new Walk(flow, (state as Live).kept)
      walk.take(event)
      return walk.turn('finished')
    },
    restore: (persisted) => {
      const kept = persisted as unknown as Kept
      if (typeof kept?.running !== 'object') throw new Error('this is no state of the fake')
      return new Live(kept)
    },
    migratesFrom: new Set(Object.keys(options.migrations ?? {}).map(Number)),
    migrate: (from, persisted) => {
      const kept = options.migrations?.[from]?.(persisted) as unknown as Kept
      const running = Object.keys(kept.running)
      const kindOf = (path: string) => nodeAt(flow, path).kind
      return {
        state: new Live(kept),
        running: {
          invocations: running.filter((path) => kindOf(path) === 'step'),
          timers: running.filter((path) => kindOf(path) === 'delay'),
        },
        takes: (name) => new Walk(flow, kept).turn(null).takes(name),
      }
    },
  }
}

/** One turn under way. */
class Walk {
  readonly #flow: Flow
  readonly #running: Record<string, number>
  readonly #counts: Record<string, number>
  readonly #effects: TurnEffect[] = []
  #over: Kept['over']

  constructor(flow: Flow, kept: Kept) {
    this.#flow = flow
    this.#running = { ...kept.running }
    this.#counts = { ...kept.counts }
    this.#over = kept.over
  }

  turn(output: Json): Turn {
    const running = this.#running
    const flow = this.#flow
    return {
      state: new Live({ running, counts: this.#counts, over: this.#over }),
      status: this.#over === '' ? 'active' : this.#over,
      output: this.#over === 'completed' ? output : undefined,
      error: this.#over === 'failed' ? 'a step failed' : '',
      effects: this.#effects,
      attributes: undefined,
      takes: (name) =>
        Object.keys(running).some((path) => {
          const node = nodeAt(flow, path)
          return node.kind === 'signal' && node.signal === name
        }),
    }
  }

  take(event: SagaEvent): void {
    switch (event.type) {
      case 'stepDone':
        return this.#leave(event.invocation, false)
      case 'stepFailed':
        return this.#fail(event.invocation)
      case 'timer':
        return this.#leave(event.timer, true)
      case 'signal': {
        const path = Object.keys(this.#running).find((each) => {
          const node = nodeAt(this.#flow, each)
          return node.kind === 'signal' && node.signal === event.signal
        })
        if (path !== undefined) this.#leave(path, false)
      }
    }
  }

  enter(path: string, branch: Branch): void {
    const node = nodeAt(this.#flow, path)
    switch (node.kind) {
      case 'step':
        this.#running[path] = 1
        this.#effects.push({
          type: 'startStep',
          invocation: path,
          step: node.step,
          input: { path },
          isSagaInput: false,
          branch,
        })
        if (node.leaveAfterMs !== undefined)
          this.#effects.push({ type: 'startTimer', timer: path, delayMs: node.leaveAfterMs })
        return
      case 'signal':
        this.#running[path] = 1
        return
      case 'delay':
        this.#running[path] = 1
        this.#effects.push({ type: 'startTimer', timer: path, delayMs: node.delayMs })
        return
      case 'all':
        this.#counts[`${path}#`] = (this.#counts[`${path}#`] ?? 0) + 1
        this.#counts[path] = 0
        if (node.flows.length === 0) return this.#done(path)
        for (const at of node.flows.keys()) {
          // A region that ends at once may end the whole.
          this.enter(child(path, at), this.#branchOf(child(path, at)))
        }
        return
      default:
        this.#counts[path] = 0
        if (node.flows.length === 0) return this.#done(path)
        this.enter(child(path, 0), branch)
    }
  }

  #leave(path: string, byTimer: boolean): void {
    const node = nodeAt(this.#flow, path)
    if (this.#running[path] === undefined) throw new Error(`${path} isn't running: an event came for it`)
    this.#stop(path, byTimer ? 'step' : 'timer')
    if (node.kind === 'delay' || !byTimer || node.kind === 'step') this.#done(path)
  }

  /** Takes a leaf out; `what` of it is still to be stopped. */
  #stop(path: string, what: 'step' | 'timer' | 'both'): void {
    const node = nodeAt(this.#flow, path)
    delete this.#running[path]
    const hasTimer = node.kind === 'delay' || (node.kind === 'step' && node.leaveAfterMs !== undefined)
    if (node.kind === 'step' && what !== 'timer') this.#effects.push({ type: 'stopStep', invocation: path })
    if (hasTimer && what !== 'step') this.#effects.push({ type: 'stopTimer', timer: path })
  }

  #fail(path: string): void {
    if (this.#running[path] === undefined) throw new Error(`${path} isn't running: a failure came for it`)
    this.#stop(path, 'timer')
    for (let at = path; at !== ''; at = parent(at)) {
      const above = nodeAt(this.#flow, parent(at))
      if (above.kind !== 'attempt' || !at.endsWith('0')) continue
      for (const leaf of Object.keys(this.#running)) if (leaf.startsWith(at)) this.#stop(leaf, 'both')
      const orElse = child(parent(at), 1)
      return this.enter(orElse, this.#branchOf(orElse))
    }
    this.#over = 'failed'
  }

  #done(path: string): void {
    if (path === '') {
      this.#over = 'completed'
      return
    }
    const up = parent(path)
    const node = nodeAt(this.#flow, up)
    if (node.kind === 'attempt') return this.#done(up)
    const count = (this.#counts[up] ?? 0) + 1
    this.#counts[up] = count
    if (node.kind === 'seq') {
      if (count === node.flows.length) return this.#done(up)
      return this.enter(child(up, count), this.#branchOf(child(up, count)))
    }
    if (node.kind === 'loop') {
      if (count === node.times) return this.#done(up)
      this.#counts[up] = count
      return this.enter(child(up, 0), this.#branchOf(child(up, 0)))
    }
    if (node.kind === 'all' && count === node.flows.length) this.#done(up)
  }

  #branchOf(path: string): Branch {
    const branch: { parallel: string; entry: number; region: string }[] = []
    for (let at = path; at !== ''; at = parent(at)) {
      const up = parent(at)
      if (nodeAt(this.#flow, up).kind === 'all')
        branch.unshift({ parallel: up, entry: this.#counts[`${up}#`] ?? 0, region: at.slice(up.length) })
    }
    return branch
  }
}

// A path has a letter for each level: which of the flows it is.
const child = (path: string, at: number): string => path + LETTERS[at]
const parent = (path: string): string => path.slice(0, -1)
const LETTERS = '0123456789abcdefghijklmnopqrstuvwxyz'

function nodeAt(flow: Flow, path: string): Flow {
  let node = flow
  for (const letter of path)
    node = (node as { flows: readonly Flow[] }).flows[LETTERS.indexOf(letter)] as Flow
  return node
}
