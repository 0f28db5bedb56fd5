import type { Moment } from '../core/decision.ts'
import type { Limits } from '../core/envelope.ts'
import type { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { SagaLimits } from '../core/saga/decision.ts'
import type { LogHandle } from '../store/log.ts'
import type { Store } from '../store/store.ts'
import type { StepParts } from './agenda.ts'
import type { LogBounds } from './bounds.ts'
import type { Outlet } from './outlet.ts'
import type { Recovered } from './recovery.ts'

/** What a log needs of the world. */
export interface LogDriverOptions extends StepParts {
  readonly store: Store
  readonly handle: LogHandle
  readonly recovered: Recovered
  readonly runtime: Runtime
  readonly outlet: Outlet
  readonly sagaLimits: SagaLimits
  readonly bounds: LogBounds
  readonly limits: Limits
  readonly tooLarge: Moment['tooLarge']
  /** Why there is no transaction of this id. */
  readonly notFound: (id: string) => EscrowError
  /** The log stopped for a reason of its own: fenced, or a store that must be reopened. */
  readonly onStopped: (error: EscrowError) => void
  /** The store doesn't answer (a reason), or does again (empty). */
  readonly onDegraded: (reason: string) => void
}
