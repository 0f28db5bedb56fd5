/**
 * Runs a step and says how it ended.
 *
 * | what its function does                                  | outcome                                             |
 * |---------------------------------------------------------|-----------------------------------------------------|
 * | resolves                                                | `done`, with the result as JSON                     |
 * | resolves with `later`, or has called `call.later()`     | `later`                                             |
 * | throws `barrierRefused` of a half message's transaction | `failed`                                            |
 * | an action throws a `Refusal`, or its input doesn't fit  | `refused`, once that stands in the barrier          |
 * | an action throws `barrierRefused`: it was undone before | `refused`                                           |
 * | a compensation throws a `Refusal`                       | `refused`: it parks, and an operator may retry it   |
 * | throws what is `uncertain`                              | `unknown`                                           |
 * | throws anything else, or gives what JSON can't hold     | `failed`                                            |
 */
import type { StepResponse } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { SAGA_LIMIT_RANGES } from '../core/saga/decision.ts'
import type { SchemaIssue } from '../core/saga/schema.ts'
import { later } from './later.ts'
import { boundedText, Refusal, thrownText } from './refusal.ts'
import type { ActionCall, IncomingStep, Step, StepCall } from './step.ts'
import { withTrace } from './tracing.ts'

/** A barrier as steps use it: a refusal is final only once it stands there. */
export interface StepBarrier {
  /** Keeps a refusal. Rejects with it, or resolves with the result of an earlier attempt that was done after all. */
  refuse(call: StepCall, refusal: Refusal): Promise<unknown>
}

/** Runs what a call asks for; total. */
export async function runStep(
  step: Step,
  call: IncomingStep,
  barrier: Partial<StepBarrier> | undefined,
): Promise<StepResponse> {
  try {
    return await withTrace(call.trace, () =>
      call.operation === 'action' ? act(step, call) : compensate(step, call),
    )
  } catch (error) {
    if (call.operation === 'compensation' || !(error instanceof Refusal)) return thrownResponse(call, error)
    return refuseBehind(barrier, call, error)
  }
}

async function act(step: Step, call: IncomingStep): Promise<StepResponse> {
  if (step.action === undefined) throw missing(call)
  let input: unknown
  try {
    input = await validated(step.input, call.input(), 'the input')
  } catch (error) {
    // The same input comes with every attempt.
    const { code, message } = EscrowError.from(error)
    throw new Refusal(boundedText(message), code)
  }
  const result = await step.action(input, call as IncomingStep & ActionCall)
  if (result === later || call.isLater) return answer('later')
  const json = resultBytes(result)
  if (step.result !== undefined) await validated(step.result, parsed(json), 'the result')
  return answer('done', json)
}

async function compensate(step: Step, call: IncomingStep): Promise<StepResponse> {
  if (step.compensation === undefined) throw missing(call)
  const input = await validated(step.input, call.input(), 'the input')
  const given = await step.compensation(input, call.result(), call)
  return answer(given === later || call.isLater ? 'later' : 'done')
}

// Without its row a refusal says nothing about an earlier attempt, whose answer was lost and which may commit yet.
async function refuseBehind(
  barrier: Partial<StepBarrier> | undefined,
  call: StepCall,
  refusal: Refusal,
): Promise<StepResponse> {
  try {
    if (barrier?.refuse === undefined) throw refusal
    const result = await barrier.refuse(call, refusal)
    return result === later ? answer('later') : answer('done', resultBytes(result))
  } catch (error) {
    return thrownResponse(call, error)
  }
}

const answer = (outcome: StepResponse['outcome'], result?: Uint8Array): StepResponse => ({
  outcome,
  result,
  code: '',
  error: '',
})

function thrownResponse(call: StepCall, thrown: unknown): StepResponse {
  const told = { result: undefined, code: codeOf(thrown), error: thrownText(thrown) }
  if (thrown instanceof Refusal) return { outcome: 'refused', ...told }
  if (!(thrown instanceof EscrowError)) return { outcome: 'failed', ...told }
  // Its compensation came first, and turned it away for good. Not so a half message's local transaction, which a check-back
  // has rolled back: the next attempt sends another one.
  const isTurnedAway = thrown.code === 'barrierRefused' && thrown.details.operation !== 'local'
  if (isTurnedAway && call.operation === 'action') return { outcome: 'refused', ...told }
  return { outcome: thrown.family === 'uncertain' ? 'unknown' : 'failed', ...told }
}

const CODE = /^[\w.:-]{1,100}$/

/** The code of what was thrown, if it has one that is a word; else empty. */
function codeOf(thrown: unknown): string {
  try {
    const { code } = thrown as { code?: unknown }
    return typeof code === 'string' && CODE.test(code) ? code : ''
  } catch {
    return ''
  }
}

function missing(call: StepCall): EscrowError {
  return new EscrowError('unsupported', `step ${call.step} has no ${call.operation}`)
}

/** What a coordinator takes at most; mostly it is set to take less, and says so. */
const [, RESULT_BYTES_MAX] = SAGA_LIMIT_RANGES.payloadBytesMax

/** A result as JSON; undefined for none. Throws `invalidArgument`, `tooLarge`. */
function resultBytes(result: unknown): Uint8Array | undefined {
  let json: string | undefined
  try {
    json = JSON.stringify(result)
  } catch (cause) {
    throw new EscrowError('invalidArgument', 'the result has no form in JSON', { cause })
  }
  if (json === undefined) return undefined
  const bytes = Buffer.from(json)
  if (bytes.length <= RESULT_BYTES_MAX) return bytes
  throw new EscrowError(
    'tooLarge',
    `the result is ${bytes.length} bytes of JSON, over the limit RESULT_BYTES_MAX of ${RESULT_BYTES_MAX}`,
    { details: { limit: 'RESULT_BYTES_MAX', max: String(RESULT_BYTES_MAX), actual: String(bytes.length) } },
  )
}

const parsed = (json: Uint8Array | undefined): unknown =>
  json === undefined ? undefined : JSON.parse(Buffer.from(json).toString())

const ISSUES_MAX = 5

/** A value as its validator has it. Rejects with `invalidArgument`. */
async function validated(schema: Step['input'], value: unknown, what: string): Promise<unknown> {
  if (schema === undefined) return value
  const checked = await schema['~standard'].validate(value)
  if (checked.issues === undefined) return checked.value
  const issues = checked.issues.slice(0, ISSUES_MAX).map(issueText)
  throw new EscrowError('invalidArgument', `${what} does not fit its schema: ${issues.join('; ')}`)
}

function issueText({ message, path = [] }: SchemaIssue): string {
  const keys = path.map((part) => String(typeof part === 'object' ? part.key : part))
  return keys.length === 0 ? message : `${keys.join('.')}: ${message}`
}
