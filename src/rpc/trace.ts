import { NO_TRACE, parseTrace, type TraceContext } from '../core/envelope.ts'

/** What may stand in an HTTP header; anything else in a stored context would tear the request that it is put in. */
const HEADER_VALUE = /^[\x20-\x7e]*$/

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

/** The headers that pass a trace on; one that no header can carry is left out. */
export function traceHeaders(trace: TraceContext): Readonly<Record<string, string>> {
  const headers: Record<string, string> = {}
  for (const name of ['traceparent', 'tracestate', 'baggage'] as const) {
    if (trace[name] !== '' && HEADER_VALUE.test(trace[name])) headers[name] = trace[name]
  }
  return headers
}
