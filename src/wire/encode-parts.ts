/** The parts that several items share, written by hand. */
import type { FixedBody } from '../core/api.ts'
import type { Headers, TraceContext } from '../core/envelope.ts'
import type { ProtoWriter } from './proto-writer.ts'

/** The tag of a field that has a length: text, bytes, a message. */
export const delimited = (field: number): number => (field << 3) | 2

/** Writes the name of a transaction, as the first two fields of whatever asks for one. */
export function writeRef(writer: ProtoWriter, ref: { namespace?: string | undefined; id: string }): void {
  writer.text(delimited(1), ref.namespace)
  writer.text(delimited(2), ref.id)
}

/** Writes a trace. */
export function writeTrace(writer: ProtoWriter, tag: number, trace: TraceContext): void {
  const start = writer.open(tag, 60)
  writer.text(delimited(1), trace.traceparent)
  writer.text(delimited(2), trace.tracestate)
  writer.text(delimited(3), trace.baggage)
  writer.close(start, 60)
}

/** Writes a map of texts, an entry each. */
export function writeMap(writer: ProtoWriter, tag: number, map: Headers): void {
  for (const name in map) {
    const start = writer.open(tag, 40)
    writer.text(delimited(1), name)
    writer.text(delimited(2), map[name])
    writer.close(start, 40)
  }
}

/** Writes fixed bodies. */
export function writeBodies(
  writer: ProtoWriter,
  tag: number,
  bodies: readonly FixedBody[] | undefined,
): void {
  if (bodies === undefined) return
  for (const { index, body } of bodies) {
    const start = writer.open(tag, body.length + 6)
    writer.uint32(1 << 3, index)
    writer.bytes(delimited(2), body)
    writer.close(start, body.length + 6)
  }
}
