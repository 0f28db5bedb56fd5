/**
 * The server of a bare loop: what a coordinator can't do without, and nothing else. Each transaction is three records,
 * one a stage, in segments that collect while an append is in flight, and the frames that carry it.
 */
import { once } from 'node:events'
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js'
import { BARE_ENDS } from './bare-ends.ts'
import { BARE_METHOD, type BareLoop, type Stage } from './bare-frame.ts'
import { openBareLog } from './bare-log.ts'
import { Packer } from './bare-packed.ts'
import type { Appended } from './instrument.ts'

const [folder, loop] = process.argv.slice(2) as [string, BareLoop]
const { server: End, recordBytes } = BARE_ENDS[loop]
const log = await openBareLog(folder)
const bodies: Uint8Array[] = []
const beside = recordBytes.map((bytes) => Buffer.alloc(bytes, 'r'))
const records = new Packer()
const end = new End()
let isAppending = false
let isPlanned = false
let appends = 0
let bytes = 0

function run(stream: ServerDuplexStream<Buffer, Buffer>): void {
  const flush = (): void => {
    isPlanned = false
    const segment = isAppending ? undefined : records.take()
    if (segment === undefined) return
    isAppending = true
    appends += 1
    bytes += segment.length
    const frame = end.take()
    void log.append(segment).then(() => {
      isAppending = false
      flush()
      if (frame !== undefined) stream.write(frame)
    })
  }
  const on = (stage: Stage, slot: number, body: Uint8Array): void => {
    if (stage === 0) {
      records.itemWithBody(stage, slot, body)
      bodies[slot] = body
    }
    records.itemWithBody(stage, slot, beside[stage]!)
    end.say(stage, slot, bodies[slot]!)
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
  if (asked === 'appended') process.send?.({ appends, bytes } satisfies Appended)
})
await once(process, 'disconnect')
server.forceShutdown()
await log.close()
process.exit()
