import type { CheckBackRequest, CheckBackResponse, FixedBody, Resolution } from '../core/api.ts'
import type { Runtime } from '../core/runtime.ts'
import { thrownText } from './refusal.ts'

/**
 * What a checker may answer: how the local transaction ended, with the bodies that were fixed in it when it committed.
 * Anything else, a throw and a time-out count as `unknown`: asked again later, never taken for commit or rollback.
 */
export type CheckerAnswer =
  | Resolution
  | {
      readonly resolution: Resolution
      readonly bodies?: readonly FixedBody[] | undefined
      readonly error?: string | undefined
    }

/** Says how local transactions ended. `barrier.checker` is one, so none has to be written by hand. */
export interface TransactionChecker {
  /** The database that it looks into; check-backs of transactions prepared for another one aren't brought here. */
  readonly databaseId?: string | undefined
  /** Answers one question; may be asked the same one again, also at the same time. */
  check(question: CheckBackRequest): CheckerAnswer | Promise<CheckerAnswer>
  /** Called when something begins to serve it; what it returns is called at the end. */
  attach?(runtime: Runtime): () => void
}

/** A checker, or a function that is one. */
export type CheckerInput = TransactionChecker | TransactionChecker['check']

/** Makes a checker of a plain function. */
export function toChecker(input: CheckerInput): TransactionChecker {
  return typeof input === 'function' ? { check: input } : input
}

/** `unknown`, with the reason for people. */
export function unknownAnswer(error: string): CheckBackResponse {
  return { resolution: 'unknown', bodies: [], error }
}

/** Asks a checker; total. Only the exact words `commit` and `rollback` settle anything. */
export async function askChecker(
  checker: TransactionChecker,
  question: CheckBackRequest,
): Promise<CheckBackResponse> {
  try {
    return parseAnswer(await checker.check(question))
  } catch (error) {
    return unknownAnswer(thrownText(error))
  }
}

function parseAnswer(answer: unknown): CheckBackResponse {
  if (typeof answer === 'string') return parseAnswer({ resolution: answer })
  if (typeof answer !== 'object' || answer === null)
    return unknownAnswer('the checker did not answer a resolution')
  const {
    resolution,
    bodies = [],
    error = '',
  } = answer as { resolution?: unknown; bodies?: unknown; error?: unknown }
  if (resolution === 'rollback') return { resolution, bodies: [], error: '' }
  if (resolution === 'commit') {
    if (isBodies(bodies)) return { resolution, bodies, error: '' }
    return unknownAnswer('the bodies that the checker answered are not a list of { index, body: Uint8Array }')
  }
  if (resolution === 'unknown') return unknownAnswer(thrownText(error))
  return unknownAnswer('the checker answered neither commit, rollback nor unknown')
}

function isBodies(bodies: unknown): bodies is readonly FixedBody[] {
  if (!Array.isArray(bodies)) return false
  return bodies.every((item: Partial<FixedBody> | null) => {
    return Number.isSafeInteger(item?.index) && item?.body instanceof Uint8Array
  })
}
