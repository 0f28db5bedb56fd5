/** The client of a bare loop: keeps so many transactions in flight, and measures a window of them. */
import { once } from 'node:events'
import { Client, credentials } from '@grpc/grpc-js'
import { BARE_ENDS } from './bare-ends.ts'
import { BARE_METHOD, type BareLoop, type Stage } from './bare-frame.ts'
import { Flight, type LoadPlan } from './flight.ts'

const end = new BARE_ENDS[process.argv[2] as BareLoop].client()
const [plan] = (await once(process, 'message')) as [LoadPlan]
const client = new Client(`127.0.0.1:${plan.port}`, credentials.createInsecure(), {
  'grpc.max_receive_message_length': 16 << 20,
})
const { path, requestSerialize, responseDeserialize } = BARE_METHOD
const stream = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize)
const body = Buffer.alloc(plan.bodyBytes, 'x')
const flight = new Flight(plan)

function begin(slot: number): void {
  flight.begun(slot)
  end.say(0, slot, body)
}

function goOn(stage: Stage, slot: number): void {
  end.say(stage, slot, body)
  if (stage < 2) return
  flight.ended(slot)
  if (!flight.isOver) begin(slot)
}

function send(): void {
  const frame = end.take()
  if (frame !== undefined) stream.write(frame)
}

stream.on('data', (frame: Buffer) => {
  end.read(frame, goOn)
  send()
})
stream.on('error', () => {})
for (let slot = 0; slot < plan.inFlight; slot++) begin(slot)
send()

process.send?.(await flight.measured)
await once(process, 'disconnect')
process.exit()
