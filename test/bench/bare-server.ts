/**
 * The server of the bare loop: what a coordinator can't do without, and nothing else. Each transaction is three records
 * (prepare, commit, delivered) in segments that collect while an append is in flight, and the frames that carry it.
 */
import { once } from 'node:events'
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js'
import { BARE_METHOD, Packer, type Packing, serverEnd } from './bare-frame.ts'
import { openBareLog } from './bare-log.ts'

const [folder, packing] = process.argv.slice(2) as [string, Packing]
const log = openBareLog(folder)
const bodies: Uint8Array[] = []
/** What a record holds beside a body: ids, names, times. With it a segment is as large as a coordinator's. */
const beside = {
  prepare: Buffer.alloc(180, 'p'),
  commit: Buffer.alloc(75, 'c'),
  answer: Buffer.alloc(75, 'a'),
}
const records = new Packer()
const end = serverEnd(packing)
let isAppending = false
let isPlanned = false
let appends = 0

function run(stream: ServerDuplexStream<Buffer, Buffer>): void {
  const flush = (): void => {
    isPlanned = false
    const segment = isAppending ? undefined : records.take()
    if (segment === undefined) return
    isAppending = true
    appends += 1
    const frame = end.take()
    void log.append(segment).then(() => {
      isAppending = false
      flush()
      if (frame !== undefined) stream.write(frame)
    })
  }
  const on = {
    prepare(slot: number, body: Uint8Array): void {
      records.itemWithBody(1, slot, body)
      records.itemWithBody(1, slot, beside.prepare)
      bodies[slot] = body
      end.prepared(slot)
    },
    commit(slot: number): void {
      records.itemWithBody(2, slot, beside.commit)
      end.committed(slot)
      end.call(slot, bodies[slot]!)
    },
    answer: (slot: number): void => records.itemWithBody(3, slot, beside.answer),
  }
  stream.on('data', (frame: Buffer) => {
    end.read(frame, on)
    if (isPlanned || isAppending) return
    isPlanned = true
    setImmediate(flush)
  })
  stream.on('end', () => stream.end())
  stream.on('error', () => {})
}

const server = new Server({ 'grpc.max_receive_message_length': 16 << 20 })
server.addService({ Run: { ...BARE_METHOD, originalName: 'run' } }, { Run: run })
server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error
  process.send?.({ port })
})
process.on('message', (asked) => {
  if (asked === 'appends') process.send?.({ appends })
})
await once(process, 'disconnect')
server.forceShutdown()
await log.close()
process.exit()
