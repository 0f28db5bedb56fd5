/** A context manager and a propagator for OpenTelemetry's API, as far as these tests need them: the SDK has its own tests. */
import { AsyncLocalStorage } from 'node:async_hooks'
import {
  type Context,
  type ContextManager,
  context,
  createContextKey,
  propagation,
  ROOT_CONTEXT,
  type TextMapPropagator,
} from '@opentelemetry/api'
import type { TraceContext } from '../../src/index.ts'

const FIELDS = ['traceparent', 'tracestate', 'baggage'] as const
const KEY = createContextKey('the three headers')
const storage = new AsyncLocalStorage<Context>()

const manager: ContextManager = {
  active: () => storage.getStore() ?? ROOT_CONTEXT,
  with: (active, work, thisArg, ...args) => storage.run(active, () => work.call(thisArg as never, ...args)),
  bind: (_, target) => target,
  enable: () => manager,
  disable: () => manager,
}

const propagator: TextMapPropagator = {
  fields: () => [...FIELDS],
  inject(active, carrier, setter) {
    const trace = active.getValue(KEY) as TraceContext | undefined
    for (const field of FIELDS) if (trace?.[field]) setter.set(carrier, field, trace[field])
  },
  extract(active, carrier, getter) {
    const [traceparent, tracestate, baggage] = FIELDS.map((field) => String(getter.get(carrier, field) ?? ''))
    return active.setValue(KEY, { traceparent, tracestate, baggage })
  },
}

/** Registers both for this process. */
export function registerTracing(): void {
  context.setGlobalContextManager(manager)
  propagation.setGlobalPropagator(propagator)
}

/** Runs work with this trace active. */
export const withActive = <T>(trace: TraceContext, work: () => T): T =>
  context.with(context.active().setValue(KEY, trace), work)

/** The trace that is active now. */
export const active = (): TraceContext | undefined =>
  context.active().getValue(KEY) as TraceContext | undefined

/** A trace of its own for each number. */
export function traceOf(number: number): TraceContext {
  const hex = (digits: number) => String(number).padStart(digits, '0')
  return {
    traceparent: `00-${hex(32)}-${hex(16)}-01`,
    tracestate: `vendor=${number}`,
    baggage: `order=${number},secret=no`,
  }
}
