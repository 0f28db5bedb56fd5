/** The client of the bare loop: keeps so many transactions in flight, and measures a window of them. */
import { once } from 'node:events'
import { Client, credentials } from '@grpc/grpc-js'
import { BARE_METHOD, clientEnd, type Packing } from './bare-frame.ts'
import { Flight, type LoadPlan } from './flight.ts'

const end = clientEnd(process.argv[2] as Packing)
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
  end.prepare(slot, body)
}

const on = {
  prepared: (slot: number): void => end.commit(slot),
  call(slot: number): void {
    // The reply to its commit came in the same frame, just before.
    end.answer(slot)
    flight.ended(slot)
    if (!flight.isOver) begin(slot)
  },
}

function send(): void {
  const frame = end.take()
  if (frame !== undefined) stream.write(frame)
}

stream.on('data', (frame: Buffer) => {
  end.read(frame, on)
  send()
})
stream.on('error', () => {})
for (let slot = 0; slot < plan.inFlight; slot++) begin(slot)
send()

process.send?.(await flight.measured)
await once(process, 'disconnect')
process.exit()
