import { type Context, context, propagation, ROOT_CONTEXT, type TextMapGetter } from '@opentelemetry/api'
import { NO_TRACE, type TraceContext } from '../core/envelope.ts'

/** The trace of the active OpenTelemetry context; none where no propagator is registered. */
export function activeTrace(): TraceContext {
  const carrier: Record<string, string> = {}
  propagation.inject(context.active(), carrier)
  const { traceparent = '', tracestate = '', baggage = '' } = carrier
  return traceparent === '' && baggage === '' ? NO_TRACE : { traceparent, tracestate, baggage }
}

const GETTER: TextMapGetter<TraceContext> = {
  keys: (trace) => Object.keys(trace).filter((key) => trace[key as keyof TraceContext] !== ''),
  get: (trace, key) => trace[key as keyof TraceContext] || undefined,
}

/** Runs `work` inside the trace that came with a call. */
export function withTrace<T>(trace: TraceContext, work: () => T): T {
  if (trace.traceparent === '' && trace.baggage === '') return work()
  const extracted: Context = propagation.extract(ROOT_CONTEXT, trace, GETTER)
  return context.with(extracted, work)
}
