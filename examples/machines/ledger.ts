/**
 * What a participant's barrier does in its database, here in memory, so that the example needs none: an execution takes
 * effect once however often it is called, is undone once, and never takes effect after it was undone or refused.
 */
import { EscrowError, type Refusal, type StepCall } from '../../src/index.ts'

/** One effect in the order of its making. */
export interface Effect {
  readonly trip: string
  readonly step: string
  readonly operation: StepCall['operation']
  readonly executionId: string
}

interface Row {
  readonly result: string
  /** Undefined where it is done. */
  readonly refusal: Error | undefined
}

/** All effects, and the rows that guard them. */
export class Ledger {
  /** One id for all that stands behind this ledger: further attempts and compensations come to where it is. */
  readonly databaseId = 'ledger-of-trips'
  readonly effects: Effect[] = []
  readonly #actions = new Map<string, Row>()
  readonly #undone = new Set<string>()

  /** Makes the effect of an action and keeps its result, unless an earlier call of the same execution has. */
  act(call: StepCall, trip: string, result: string): string {
    const known = this.#known(call)
    if (known !== undefined) return known
    this.#actions.set(call.executionId, { result, refusal: undefined })
    this.#note(call, trip)
    return result
  }

  /** Undoes an action if it was done, and keeps it from being done later if it was not. */
  undo(call: StepCall, trip: string): void {
    if (this.#undone.has(call.executionId)) return
    this.#undone.add(call.executionId)
    const action = this.#actions.get(call.executionId)
    if (action === undefined) {
      const refusal = new EscrowError('barrierRefused', `${call.step} was undone before it was done`)
      this.#actions.set(call.executionId, { result: '', refusal })
    } else if (action.refusal === undefined) this.#note(call, trip)
  }

  /** Keeps a refusal, so that no attempt that is still on its way can take effect. */
  async refuse(call: StepCall, refusal: Refusal): Promise<string> {
    const known = this.#known(call)
    if (known !== undefined) return known
    this.#actions.set(call.executionId, { result: '', refusal })
    throw refusal
  }

  #known({ executionId }: StepCall): string | undefined {
    const row = this.#actions.get(executionId)
    if (row?.refusal !== undefined) throw row.refusal
    return row?.result
  }

  #note({ step, operation, executionId }: StepCall, trip: string): void {
    this.effects.push({ trip, step, operation, executionId })
  }
}
