import type { StepRequest, StepResponse } from '../../src/core/api.ts'
import type { Namespace } from '../../src/core/ids.ts'
import type { Runtime } from '../../src/core/runtime.ts'
import type { Route } from '../../src/engine/outlet.ts'
import type { StepName, StepOutcome, StepOutlet } from '../../src/engine/step-outlet.ts'
import type { Told } from './fake-outlet.ts'

/** A call that left the coordinator. */
export interface SeenStep {
  readonly request: StepRequest
  readonly databaseId: string
  readonly atMs: number
}

/** An answer of a participant. */
export const answerOf = (
  outcome: StepResponse['outcome'],
  more: Partial<StepResponse> = {},
): StepResponse => ({
  outcome,
  code: '',
  error: '',
  ...more,
})

/** That it is done, with a result. */
export const doneWith = (result: unknown): StepResponse =>
  answerOf('done', { result: Buffer.from(JSON.stringify(result)) })

const nameOf = ({ service, step }: StepName): string => `${service}/${step}`

/** Who serves which steps. Outlives every coordinator. */
export class FakeStepParticipants {
  readonly calls: SeenStep[] = []
  /** Databases by `service/step`; empty text for none. */
  readonly steps = new Map<string, string>()
  /** How many calls of one step may be unanswered. */
  window = Number.POSITIVE_INFINITY
  /** Whether the end of each call tells of the room that it left. */
  isTellingRoom = true
  unanswered = 0
  unansweredMax = 0
  take: (request: StepRequest) => Told<StepOutcome> = () => answerOf('done')
  /** Called when a step is called that isn't there, before the coordinator hears of it. */
  missed: (request: StepRequest) => void = () => {}
  readonly rooms = new Set<Parameters<StepOutlet['onStepRoom']>[0]>()

  /** A participant's step is there from now on. */
  comes(name: string, databaseId = ''): void {
    this.steps.set(name, databaseId)
    this.roomAt(name)
  }

  roomAt(name: string): void {
    const [service = '', step = ''] = name.split('/')
    for (const room of this.rooms) room('default' as Namespace, { service, step })
  }

  /** What was called, in order: a step's action by its name, its compensation with a `-` before it. */
  get names(): string[] {
    return this.calls.map(({ request }) => `${request.operation === 'action' ? '' : '-'}${request.step}`)
  }
}

/** One coordinator's way to the steps; what is under way is lost when it is killed. */
export class FakeStepOutlet implements StepOutlet {
  readonly #participants: FakeStepParticipants
  readonly #runtime: Runtime
  readonly #isKilled: () => boolean

  constructor(participants: FakeStepParticipants, runtime: Runtime, isKilled: () => boolean) {
    this.#participants = participants
    this.#runtime = runtime
    this.#isKilled = isKilled
  }

  routeStep(_namespace: Namespace, name: StepName, databaseId: string | undefined): Route | undefined {
    const there = this.#participants.steps.get(nameOf(name))
    if (there === undefined || (databaseId !== undefined && databaseId !== there)) return undefined
    return this.#participants.unanswered < this.#participants.window ? { databaseId: there } : undefined
  }

  step(request: StepRequest, databaseId: string, done: (outcome: StepOutcome) => void): void {
    if (this.#isKilled()) return
    const world = this.#participants
    const there = world.steps.get(nameOf(request))
    if (
      there === undefined ||
      (databaseId !== '' && databaseId !== there) ||
      world.unanswered >= world.window
    ) {
      this.#runtime.defer(() => done({ outcome: 'noSession', error: 'nobody is there' }))
      world.missed(request)
      return
    }
    world.calls.push({ request, databaseId, atMs: this.#runtime.now() })
    world.unanswered += 1
    world.unansweredMax = Math.max(world.unansweredMax, world.unanswered)
    let isDone = false
    const end = (outcome: StepOutcome): void => {
      if (isDone) return
      isDone = true
      cancel()
      world.unanswered -= 1
      if (this.#isKilled()) return
      done(outcome)
      if (world.isTellingRoom) world.roomAt(nameOf(request))
    }
    const cancel = this.#runtime.setTimer(
      () => end(answerOf('unknown', { error: 'silence' })),
      request.timeoutMs,
    )
    const told = world.take(request)
    if (told === 'silence') return
    if (told instanceof Promise) void told.then(end)
    else this.#runtime.defer(() => end(told))
  }

  onStepRoom(callback: Parameters<StepOutlet['onStepRoom']>[0]): void {
    this.#participants.rooms.add((namespace, name) => {
      if (!this.#isKilled()) callback(namespace, name)
    })
  }
}
