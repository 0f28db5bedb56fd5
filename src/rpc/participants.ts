/**
 * The participants that can be called now: those that hold a session, those that listen, and other nodes for those that
 * hold a session there. They are chosen in turns, each as long as its window has room, other nodes where nobody here has
 * any; whoever is slow is passed over once its window is full.
 */
import type { CheckBackRequest, DeliverRequest, Registration, StepRequest } from '../core/api.ts'
import type { Destination, Namespace } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { CheckBackOutcome, DeliveryOutcome, Outlet, Route } from '../engine/outlet.ts'
import type { StepName, StepOutcome, StepOutlet } from '../engine/step-outlet.ts'
import type { CoordinatorItem } from '../wire/items.ts'
import { type Caller, ListenerReceiver } from './listener-receiver.ts'
import { NodeReceiver } from './node-receiver.ts'
import { type Choice, type Receiver, Receivers, type Takes } from './receivers.ts'
import { Roster } from './roster.ts'
import { SessionCalls } from './session-calls.ts'

export type { Caller } from './listener-receiver.ts'

/** How late a time-out may be noticed: one timer looks after all calls. */
export const TICK_MS = 100

/** A session that takes part. */
export interface Participation {
  readonly calls: SessionCalls
  /** Serves these names, too; a name that it serves already gets the database of this registration. */
  register(registration: Registration): void
  /** Takes no new calls; answers still count. */
  pause(): void
  /** Its calls in flight end as `unknown`. */
  leave(): void
}

/** Another node that takes part, for the sessions that it holds. */
export interface NodeParticipation {
  readonly calls: SessionCalls
  /** It serves these names of this service and of the registration's database, and no other ones of both. */
  serve(namespace: Namespace, service: string, registration: Registration): void
  /** Takes no new calls; answers still count. */
  pause(): void
  /** Its calls in flight end as `unknown`. */
  leave(): void
}

/** What a session takes at once. */
export interface SessionWindow {
  readonly deliveriesMax: number
  readonly checkBacksMax: number
  readonly stepsMax: number
  send(item: CoordinatorItem): void
}

interface Scope {
  readonly destinations: Map<string, Receivers>
  readonly checkers: Map<string, Receivers>
  /** By `service/step`. */
  readonly steps: Map<string, Receivers>
}

type RoomCallback = Parameters<Outlet['onRoom']>[0]
type StepRoomCallback = Parameters<StepOutlet['onStepRoom']>[0]

export class Participants implements Outlet, StepOutlet {
  readonly #runtime: Pick<Runtime, 'monotonic' | 'setTimer' | 'defer'>
  readonly #scopes = new Map<string, Scope>()
  readonly #sessions = new Set<SessionCalls>()
  readonly #room = new Set<Receivers>()
  /** What the sessions of this node serve. */
  readonly roster: Roster
  #onRoom: RoomCallback = () => {}
  #onStepRoom: StepRoomCallback = () => {}
  #nextSweepMs = Number.POSITIVE_INFINITY
  #isTicking = false
  #answersDropped = 0

  constructor(runtime: Pick<Runtime, 'monotonic' | 'setTimer' | 'defer'>) {
    this.#runtime = runtime
    this.roster = new Roster((callback) => runtime.defer(callback))
  }

  /** Answers that came after their call was abandoned, or to no call at all. */
  get answersDropped(): number {
    return this.#answersDropped
  }

  route(namespace: Namespace, destination: Destination, databaseId: string | undefined): Route | undefined {
    return this.#scopes.get(namespace)?.destinations.get(destination)?.choose(databaseId, false).member
  }

  /** `isHereOnly`, here and below: for another node, whose calls go no further. */
  deliver(
    destination: Destination,
    request: DeliverRequest,
    databaseId: string,
    done: (outcome: DeliveryOutcome) => void,
    isHereOnly = false,
  ): void {
    const receivers = this.#scopes.get(request.namespace)?.destinations.get(destination)
    const choice = receivers?.choose(databaseId, isHereOnly)
    if (receivers !== undefined && choice?.member !== undefined) {
      return choice.member.receiver.deliver(request, receivers, done)
    }
    this.#runtime.defer(() =>
      done({ outcome: 'noSession', error: whyNot(`destination ${destination}`, databaseId, choice) }),
    )
  }

  checkBack(
    request: CheckBackRequest,
    databaseId: string,
    done: (outcome: CheckBackOutcome) => void,
    isHereOnly = false,
  ): void {
    const receivers = this.#scopes.get(request.namespace)?.checkers.get(request.checker)
    const choice = receivers?.choose(databaseId, isHereOnly)
    if (receivers !== undefined && choice?.member !== undefined) {
      return choice.member.receiver.checkBack(request, receivers, done)
    }
    this.#runtime.defer(() =>
      done({ outcome: 'noSession', error: whyNot(`checker ${request.checker}`, databaseId, choice) }),
    )
  }

  routeStep(
    namespace: Namespace,
    { service, step }: StepName,
    databaseId: string | undefined,
  ): Route | undefined {
    return this.#scopes.get(namespace)?.steps.get(`${service}/${step}`)?.choose(databaseId, false).member
  }

  step(
    request: StepRequest,
    databaseId: string,
    done: (outcome: StepOutcome) => void,
    isHereOnly = false,
  ): void {
    const name = `${request.service}/${request.step}`
    const receivers = this.#scopes.get(request.namespace)?.steps.get(name)
    const choice = receivers?.choose(databaseId, isHereOnly)
    if (receivers !== undefined && choice?.member !== undefined) {
      return choice.member.receiver.step(request, receivers, done)
    }
    this.#runtime.defer(() =>
      done({ outcome: 'noSession', error: whyNot(`step ${name}`, databaseId, choice) }),
    )
  }

  onRoom(callback: RoomCallback): void {
    this.#onRoom = callback
  }

  onStepRoom(callback: StepRoomCallback): void {
    this.#onStepRoom = callback
  }

  /** A session takes part from now on; it serves what is registered through what this returns. */
  join(namespace: Namespace, service: string, window: SessionWindow): Participation {
    const lists = new Set<Receivers>()
    const calls = this.#open(window, lists)
    const entry = this.roster.enter(namespace, service)
    return {
      calls,
      register: (registration) => {
        this.#serve(namespace, service, registration, calls, lists)
        entry.serve(registration)
      },
      pause: () => {
        calls.stop()
        entry.leave()
      },
      leave: () => {
        this.#sessions.delete(calls)
        entry.leave()
        withdraw(calls, lists)
        calls.lost()
      },
    }
  }

  /** Another node takes part from now on; it serves what is told through what this returns. */
  joinNode(window: SessionWindow): NodeParticipation {
    const lists = new Set<Receivers>()
    const calls = this.#open(window, lists)
    const served = new Map<string, ReadonlyMap<Receivers, NodeReceiver>>()
    const take = (receivers: Receivers, receiver: NodeReceiver): void => {
      receiver.close()
      receivers.remove(receiver)
    }
    return {
      calls,
      serve: (namespace, service, registration) => {
        const { databaseId } = registration
        const key = `${namespace}/${service} ${databaseId}`
        const before = new Map(served.get(key))
        const after = new Map<Receivers, NodeReceiver>()
        for (const receivers of this.#named(namespace, service, registration)) {
          const known = after.get(receivers) ?? before.get(receivers)
          after.set(receivers, known ?? this.#addNode(receivers, calls, databaseId))
          before.delete(receivers)
          lists.add(receivers)
        }
        for (const [receivers, receiver] of before) take(receivers, receiver)
        if (after.size === 0) served.delete(key)
        else served.set(key, after)
      },
      pause: () => calls.stop(),
      leave: () => {
        this.#sessions.delete(calls)
        for (const each of served.values()) for (const pair of each) take(...pair)
        served.clear()
        lists.clear()
        calls.lost()
      },
    }
  }

  #addNode(receivers: Receivers, calls: SessionCalls, databaseId: string): NodeReceiver {
    const receiver = new NodeReceiver({
      calls,
      databaseId,
      setTimer: (callback, delayMs) => this.#runtime.setTimer(callback, delayMs),
      room: () => this.#tellRoom(receivers),
    })
    receivers.addElsewhere(receiver, databaseId)
    this.#tellRoom(receivers)
    return receiver
  }

  #open(window: SessionWindow, lists: ReadonlySet<Receivers>): SessionCalls {
    const calls = new SessionCalls({
      deliveriesMax: window.deliveriesMax,
      checkBacksMax: window.checkBacksMax,
      stepsMax: window.stepsMax,
      send: window.send,
      monotonic: () => this.#runtime.monotonic(),
      defer: (callback) => this.#runtime.defer(callback),
      expect: (dueMs) => this.#expect(dueMs),
      freed: (receivers, wasFull) => this.#freed(receivers, wasFull ? lists : NONE_ELSE),
      dropped: () => {
        this.#answersDropped++
      },
    })
    this.#sessions.add(calls)
    return calls
  }

  /** A participant that listens serves these names from now on, until what this returns is called. */
  addListener(namespace: Namespace, service: string, registration: Registration, caller: Caller): () => void {
    const lists = new Set<Receivers>()
    const receiver = new ListenerReceiver({
      caller,
      setTimer: (callback, delayMs) => this.#runtime.setTimer(callback, delayMs),
      freed: (receivers) => this.#freed(receivers, lists),
      back: () => {
        for (const receivers of lists) this.#tellRoom(receivers)
      },
    })
    this.#serve(namespace, service, registration, receiver, lists)
    return () => {
      withdraw(receiver, lists)
      receiver.close()
    }
  }

  #serve(
    namespace: Namespace,
    service: string,
    registration: Registration,
    receiver: Receiver,
    lists: Set<Receivers>,
  ): void {
    for (const receivers of this.#named(namespace, service, registration)) {
      receivers.add(receiver, registration.databaseId)
      lists.add(receivers)
      this.#tellRoom(receivers)
    }
  }

  /** The receivers of each name of a registration. */
  #named(
    namespace: Namespace,
    service: string,
    { handlers, checkers, steps = [] }: Registration,
  ): readonly Receivers[] {
    let scope = this.#scopes.get(namespace)
    if (scope === undefined) {
      scope = { destinations: new Map(), checkers: new Map(), steps: new Map() }
      this.#scopes.set(namespace, scope)
    }
    const { destinations, checkers: byChecker, steps: byStep } = scope
    return [
      ...handlers.map((handler) => {
        const destination = `${service}/${handler}` as Destination
        return receiversOf(destinations, destination, 'takesDelivery', () =>
          this.#onRoom(namespace, { destination }),
        )
      }),
      ...checkers.map((checker) =>
        receiversOf(byChecker, checker, 'takesCheckBack', () => this.#onRoom(namespace, { checker })),
      ),
      ...steps.map((step) =>
        receiversOf(byStep, `${service}/${step}`, 'takesStep', () =>
          this.#onStepRoom(namespace, { service, step }),
        ),
      ),
    ]
  }

  /**
   * A place has come free. Whoever uses these receivers is told, and of the receiver's other names those under which
   * somebody was turned away.
   */
  #freed(receivers: Receivers, lists: ReadonlySet<Receivers>): void {
    this.#tellRoom(receivers)
    for (const other of lists) if (other.wanted) this.#tellRoom(other)
  }

  /** Told once a turn, and after every answer that was deferred before: who is turned away hears of room afterwards. */
  #tellRoom(receivers: Receivers): void {
    receivers.wanted = false
    if (this.#room.size === 0) {
      this.#runtime.defer(() => {
        const told = [...this.#room]
        this.#room.clear()
        for (const each of told) each.tellRoom()
      })
    }
    this.#room.add(receivers)
  }

  #expect(dueMs: number): void {
    if (dueMs < this.#nextSweepMs) this.#nextSweepMs = dueMs
    if (this.#isTicking) return
    this.#isTicking = true
    this.#runtime.setTimer(() => this.#tick(), TICK_MS)
  }

  #tick(): void {
    const nowMs = this.#runtime.monotonic()
    if (nowMs >= this.#nextSweepMs) {
      this.#nextSweepMs = Number.POSITIVE_INFINITY
      for (const calls of this.#sessions) {
        // First the sweep: whoever is told of a time-out may begin a call, which says when it is due itself.
        const nextMs = calls.sweep(nowMs)
        this.#nextSweepMs = Math.min(this.#nextSweepMs, nextMs)
      }
    }
    // Nothing in flight: the timer ends, and with it what would keep a process alive.
    this.#isTicking = [...this.#sessions].some((calls) => calls.size > 0)
    if (!this.#isTicking) this.#nextSweepMs = Number.POSITIVE_INFINITY
    else this.#runtime.setTimer(() => this.#tick(), TICK_MS)
  }
}

const NONE_ELSE: ReadonlySet<Receivers> = new Set()

function receiversOf(
  names: Map<string, Receivers>,
  name: string,
  takes: Takes,
  tellRoom: () => void,
): Receivers {
  let receivers = names.get(name)
  if (receivers === undefined) {
    receivers = new Receivers(takes, tellRoom)
    names.set(name, receivers)
  }
  return receivers
}

// The names stay when nobody serves them any more: they are bounded by what was ever registered, and mostly soon back.
function withdraw(receiver: Receiver, lists: Set<Receivers>): void {
  for (const receivers of lists) receivers.remove(receiver)
  lists.clear()
}

function whyNot(what: string, databaseId: string, choice: Choice | undefined): string {
  const why = choice?.member === undefined ? choice?.why : undefined
  if (why === 'full') return `everybody who serves ${what} has their window full`
  if (why === 'database') {
    const database = databaseId === '' ? 'without a database' : `with database ${databaseId}`
    return `nobody who serves ${what} is connected ${database}`
  }
  return `nobody who serves ${what} is connected`
}
