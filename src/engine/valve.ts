import type { Runtime } from '../core/runtime.ts'
import type { Outlet } from './outlet.ts'
import type { StepOutlet } from './step-outlet.ts'

/** What is under way has so long to end, and is looked at so often. */
const ENDING_MS_MAX = 2_000
const LOOK_MS = 20

/** Lets nothing new leave once it is shut, as when nobody had room: a log that is handed over begins no attempt. */
export class Valve {
  readonly outlet: Outlet
  readonly stepOutlet: StepOutlet
  readonly #runtime: Pick<Runtime, 'defer' | 'monotonic' | 'setTimer'>
  #isShut = false

  constructor(outlet: Outlet, stepOutlet: StepOutlet, runtime: Runtime) {
    this.#runtime = runtime
    this.outlet = {
      route: (...args) => (this.#isShut ? undefined : outlet.route(...args)),
      deliver: (...args) => outlet.deliver(...args),
      checkBack: (request, databaseId, done) => {
        if (!this.#isShut) return outlet.checkBack(request, databaseId, done)
        runtime.defer(() => done({ outcome: 'noSession', error: 'the log is being handed over' }))
      },
      onRoom: (callback) => outlet.onRoom(callback),
    }
    this.stepOutlet = {
      routeStep: (...args) => (this.#isShut ? undefined : stepOutlet.routeStep(...args)),
      step: (...args) => stepOutlet.step(...args),
      onStepRoom: (callback) => stepOutlet.onStepRoom(callback),
    }
  }

  /** Shuts it, and waits for a moment until nothing is under way any more. */
  async shut(isUnderWay: () => boolean): Promise<void> {
    this.#isShut = true
    const runtime = this.#runtime
    const untilMs = runtime.monotonic() + ENDING_MS_MAX
    while (isUnderWay() && runtime.monotonic() < untilMs)
      await new Promise<void>((resolve) => runtime.setTimer(resolve, LOOK_MS))
  }
}
