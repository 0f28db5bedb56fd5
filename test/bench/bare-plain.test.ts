import { expect, test } from 'vitest'
import { coordinatorCodec, serviceCodec } from '../../src/wire/frame.ts'
import { BARE_ENDS } from './bare-ends.ts'
import type { BareEnd, BareLoop, OnStage } from './bare-frame.ts'

const SLOT = 1_234
const BODY = Buffer.alloc(200, 'x')

/** Takes one transaction through a loop, and gives what crossed, as a session reads it. */
function crossed(loop: BareLoop): readonly object[] {
  const { client: Client, server: Server } = BARE_ENDS[loop]
  const [client, server] = [new Client(), new Server()]
  const [fromClient, fromServer] = [coordinatorCodec.decoder(), serviceCodec.decoder()]
  const items: object[] = []
  let kept: Uint8Array = BODY
  const sayOf =
    (end: BareEnd): OnStage =>
    (stage, slot, body) => {
      expect(slot).toBe(SLOT)
      if (stage === 0) kept = body
      end.say(stage, slot, kept)
    }
  client.say(0, SLOT, BODY)
  for (;;) {
    const asked = client.take()!
    items.push(...fromClient.decode(asked))
    server.read(asked, sayOf(server))
    const answered = server.take()
    if (answered === undefined) return items
    items.push(...fromServer.decode(answered))
    client.read(answered, sayOf(client))
  }
}

/** What differs on purpose: ids, the calls' numbers, and what a body holds, but not how long it is. */
const shapeOf = (item: object): unknown =>
  JSON.parse(JSON.stringify(item), (key, value) => {
    if (value?.type === 'Buffer') return value.data.length
    if (key === 'input' && typeof value === 'string') return value.length
    return /^(id|transactionId|executionId|callId)$/.test(key) ? typeof value : value
  })

test.each(['message', 'saga'] as const)(
  'a %s in plain protobuf crosses as the same items that our own codec writes',
  (loop) => {
    const plain = crossed(`${loop}-plain`)
    expect(plain).toHaveLength(6)
    expect(plain.map(shapeOf)).toEqual(crossed(loop).map(shapeOf))
  },
)
