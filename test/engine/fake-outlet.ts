import type { CheckBackRequest, DeliverRequest } from '../../src/core/api.ts'
import type { Destination, Namespace } from '../../src/core/ids.ts'
import type { Runtime } from '../../src/core/runtime.ts'
import type { CheckBackOutcome, DeliveryOutcome, Outlet, Route } from '../../src/engine/outlet.ts'

/** What a receiver makes of a call: an answer, one that comes later, or silence until the time-out. */
export type Told<Outcome> = Outcome | Promise<Outcome> | 'silence'

/** Something that left the coordinator. */
export interface SeenDelivery {
  readonly destination: string
  readonly request: DeliverRequest
  readonly atMs: number
}

/** Who is out there: what is at a destination, and which checkers there are. Outlives every coordinator. */
export class FakeParticipants {
  readonly deliveries: SeenDelivery[] = []
  readonly checkBacks: { readonly request: CheckBackRequest; readonly atMs: number }[] = []
  /** Databases by destination; empty text for none. */
  readonly handlers = new Map<string, string>()
  readonly checkers = new Map<string, string>()
  /** How many deliveries to one destination may be unanswered. */
  window = Number.POSITIVE_INFINITY
  /** Whether the end of each delivery tells of the room that it left. */
  isTellingRoom = true
  unanswered = 0
  unansweredMax = 0
  deliver: (request: DeliverRequest, destination: string) => Told<DeliveryOutcome> = () => ({
    outcome: 'delivered',
    error: '',
  })
  check: (request: CheckBackRequest) => Told<CheckBackOutcome> = () => ({
    resolution: 'unknown',
    bodies: [],
    error: '',
  })
  /** Called when a checker is asked for that isn't there, before the coordinator hears of it. */
  missed: () => void = () => {}
  readonly rooms = new Set<Parameters<Outlet['onRoom']>[0]>()

  /** A handler, or a broker's topic, is there from now on. */
  comes(destination: string, databaseId = ''): void {
    this.handlers.set(destination, databaseId)
    this.roomAt(destination)
  }

  checkerComes(checker: string, databaseId = ''): void {
    this.checkers.set(checker, databaseId)
    for (const room of this.rooms) room('default' as Namespace, { checker })
  }

  roomAt(destination: string): void {
    for (const room of this.rooms) room('default' as Namespace, { destination: destination as Destination })
  }

  /** What was published to a destination, in order: the bodies as text. */
  bodies(destination: string): string[] {
    return this.deliveries
      .filter((seen) => seen.destination === destination)
      .map(({ request }) => Buffer.from(request.body).toString())
  }
}

/** One coordinator's way to the participants; what is under way is lost when it is killed. */
export class FakeOutlet implements Outlet {
  readonly #participants: FakeParticipants
  readonly #runtime: Runtime
  readonly #isKilled: () => boolean

  constructor(participants: FakeParticipants, runtime: Runtime, isKilled: () => boolean) {
    this.#participants = participants
    this.#runtime = runtime
    this.#isKilled = isKilled
  }

  route(_namespace: Namespace, destination: Destination, databaseId: string | undefined): Route | undefined {
    const there = this.#participants.handlers.get(destination)
    if (there === undefined || (databaseId !== undefined && databaseId !== there)) return undefined
    return this.#participants.unanswered < this.#participants.window ? { databaseId: there } : undefined
  }

  deliver(
    destination: Destination,
    request: DeliverRequest,
    databaseId: string,
    done: (outcome: DeliveryOutcome) => void,
  ): void {
    if (this.#isKilled()) return
    const world = this.#participants
    const there = world.handlers.get(destination)
    if (
      there === undefined ||
      (databaseId !== '' && databaseId !== there) ||
      world.unanswered >= world.window
    ) {
      this.#runtime.defer(() => done({ outcome: 'noSession', error: 'nobody is there' }))
      return
    }
    world.deliveries.push({ destination, request, atMs: this.#runtime.now() })
    world.unanswered += 1
    world.unansweredMax = Math.max(world.unansweredMax, world.unanswered)
    const end = (outcome: DeliveryOutcome): void => {
      world.unanswered -= 1
      if (this.#isKilled()) return
      done(outcome)
      if (world.isTellingRoom) world.roomAt(destination)
    }
    this.#answer(world.deliver(request, destination), request.timeoutMs, end, {
      outcome: 'unknown',
      error: 'silence',
    })
  }

  checkBack(request: CheckBackRequest, databaseId: string, done: (outcome: CheckBackOutcome) => void): void {
    if (this.#isKilled()) return
    const there = this.#participants.checkers.get(request.checker)
    if (there === undefined || (databaseId !== '' && databaseId !== there)) {
      this.#runtime.defer(() => done({ outcome: 'noSession', error: 'nobody is there' }))
      this.#participants.missed()
      return
    }
    this.#participants.checkBacks.push({ request, atMs: this.#runtime.now() })
    const end = (outcome: CheckBackOutcome): void => {
      if (!this.#isKilled()) done(outcome)
    }
    const silent = { resolution: 'unknown', bodies: [], error: 'silence' } as const
    this.#answer(this.#participants.check(request), request.timeoutMs, end, silent)
  }

  #answer<Outcome>(
    told: Told<Outcome>,
    timeoutMs: number,
    done: (outcome: Outcome) => void,
    silent: Outcome,
  ): void {
    let isDone = false
    const once = (outcome: Outcome): void => {
      if (isDone) return
      isDone = true
      cancel()
      done(outcome)
    }
    const cancel = this.#runtime.setTimer(() => once(silent), timeoutMs)
    if (told === 'silence') return
    if (told instanceof Promise) void told.then(once)
    else this.#runtime.defer(() => once(told))
  }

  onRoom(callback: Parameters<Outlet['onRoom']>[0]): void {
    this.#participants.rooms.add((namespace, what) => {
      if (!this.#isKilled()) callback(namespace, what)
    })
  }
}
