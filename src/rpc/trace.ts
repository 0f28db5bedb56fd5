import { NO_TRACE, parseTrace, type TraceContext } from '../core/envelope.ts'

/**
 * The W3C trace context of a request, by its headers; `get` answers undefined for one that is missing. A context that
 * isn't well formed is dropped, as W3C Trace Context §3.2 asks.
 */
export function traceOfHeaders(get: (name: string) => string | undefined): TraceContext {
  const traceparent = get('traceparent') ?? ''
  const baggage = get('baggage') ?? ''
  if (traceparent === '' && baggage === '') return NO_TRACE
  return parseTrace({ traceparent, tracestate: get('tracestate') ?? '', baggage })
}
