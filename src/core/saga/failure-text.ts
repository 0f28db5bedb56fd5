/** Why a flow failed, in words. */
import { unreachable } from '../errors.ts'
import type { Standing } from './chart-state.ts'
import type { Invocation } from './chart-turn.ts'
import type { SagaEvent } from './program.ts'

/** The tag that marks the states in which a flow has failed. */
export const FAILED = 'failed'

/** Why a flow failed: by the event that brought it to where it stands. */
export function whyFailed(
  { _nodes }: Standing,
  event: SagaEvent | undefined,
  invocations: ReadonlyMap<string, Invocation>,
): string {
  const path = _nodes.find((node) => node.tags.includes(FAILED))?.path.join('.') ?? ''
  const where = path === '' ? '' : ` (${path})`
  switch (event?.type) {
    case 'stepFailed': {
      const step = invocations.get(event.invocation)?.step ?? event.invocation
      return `step ${JSON.stringify(step)}: ${event.error.code}: ${event.error.message}`
    }
    case 'timer':
      return `${timerText(event.timer)}${where}`
    case 'signal':
      return `signal ${JSON.stringify(event.signal)}${where}`
    case 'stepDone':
    case undefined:
      return `the flow came to ${path}`
    default:
      return unreachable(event)
  }
}

/** A timer in words: one of `after` by its delay and the state that it stood on. */
function timerText(timer: string): string {
  const after = /^xstate\.after\.([^.]+)\.[^.]+\.(.+)$/.exec(timer)
  if (after === null) return `timer ${timer} fired`
  const [, delay, path] = after
  return `${path}: ${delay}${Number.isNaN(Number(delay)) ? '' : ' ms'} passed`
}
