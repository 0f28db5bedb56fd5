/**
 * Committed messages that arrive at each broker: beside the broker's own client (a), and the same messages that go to a
 * participant (b). Both need the same two cores, so that neither can be had whole: the limit is 1/(1/a + 1/b).
 */
import { type BrokerKind, brokerKinds } from '../../examples/shop/broker.ts'
import { rocketmqUrl, startBroker } from '../services/brokers.ts'
import { catalog } from '../services/catalog.ts'
import { freePorts } from '../services/native-process.ts'
import type { BarePlan } from './bare-broker-process.ts'
import type { Bench, BenchOptions } from './bench.ts'
import { Child } from './child.ts'
import { type Row, row } from './figures.ts'
import { type CountedLoad, perSecond, rowsOf, runReal } from './loads.ts'
import { messageLoad } from './message-embedded.ts'
import type { NativePlan } from './native-process.ts'

const COUNTED = { unit: 'tx', records: 3 }
const WARM_UP_MS = 2_000
const WINDOW_MS = 5_000
const TOPIC = 'bench'

async function runBare(kind: BrokerKind, url: string, batch: number): Promise<number> {
  const child = new Child('bare-broker-process.ts')
  const { bodyBytes } = messageLoad
  const plan = { kind, url, topic: TOPIC, bodyBytes, batch, warmUpMs: WARM_UP_MS, windowMs: WINDOW_MS }
  const { perSecond } = await child.ask<{ perSecond: number }>(plan satisfies BarePlan)
  await child.stop()
  return perSecond
}

async function run(kind: BrokerKind, { runs, note }: BenchOptions): Promise<readonly Row[]> {
  // Straight to the server: the proxy is for faults.
  const { service, directUrl: direct } = await startBroker(kind)
  const arrivalsPort = await freePorts()
  const name = `message-${kind === 'postgres' ? 'postgres-queue' : kind}`
  const [real, embedded]: [CountedLoad[], CountedLoad[]] = [[], []]
  const bare: number[] = []
  const batches: number[] = []
  try {
    for (let at = 1; at <= runs; at++) {
      const load = await runReal({ ...messageLoad, broker: { kind, url: direct, arrivalsPort } })
      const batch = Math.max(1, Math.round(load.transactionsInAll / (load.batches ?? 1)))
      real.push(load)
      batches.push(batch)
      bare.push(await runBare(kind, direct, batch))
      embedded.push(await runReal(messageLoad))
      note(
        `run ${at} of ${runs}: ${Math.round(load.perSecond)}/s in batches of ${batch}; bare client ` +
          `${Math.round(bare.at(-1)!)}/s; to a participant ${Math.round(embedded.at(-1)!.perSecond)}/s`,
      )
    }
  } finally {
    await service.stop()
  }
  const both = bare.map((a, at) => 1 / (1 / a + 1 / embedded[at]!.perSecond))
  return [
    row(name, 'tx/s', perSecond(real), { limits: both, wanted: 'at least 0.80 of 1/(1/a + 1/b)' }),
    row(`${name} a: bare client`, '/s', bare),
    row(`${name} b: message-embedded`, 'tx/s', perSecond(embedded)),
    row(`${name} batch`, '', batches),
    ...rowsOf(name, COUNTED, real),
  ]
}

/** One bench a broker. */
export const messageBrokers: readonly Bench[] = brokerKinds.map((kind) => ({
  name: `message-${kind === 'postgres' ? 'postgres-queue' : kind}`,
  about: `committed messages of ${messageLoad.bodyBytes} bytes that arrive at ${kind}, ${messageLoad.inFlight} in flight`,
  run: (options) => run(kind, options),
}))

const NATIVE_IN_FLIGHT = 64

async function runNative(by: NativePlan['by'], url: string): Promise<number> {
  const child = new Child('native-process.ts')
  const plan = { by, url, topic: TOPIC, bodyBytes: messageLoad.bodyBytes, inFlight: NATIVE_IN_FLIGHT }
  const times = { warmUpMs: WARM_UP_MS, windowMs: WINDOW_MS }
  const { perSecond } = await child.ask<{ perSecond: number }>({ ...plan, ...times } satisfies NativePlan)
  await child.stop()
  return perSecond
}

/** Transactions of RocketMQ's own. */
export const rocketmqNative: Bench = {
  name: 'rocketmq-native',
  about: `transactions whose half messages RocketMQ holds, ${NATIVE_IN_FLIGHT} in flight, beside its own client`,
  async run({ runs, note }) {
    const { value: server } = await catalog.rocketmq.start({})
    const url = rocketmqUrl(server, server.directPort)
    const [escrow, client]: [number[], number[]] = [[], []]
    try {
      await server.createTopic(TOPIC, 'TRANSACTION')
      for (let at = 1; at <= runs; at++) {
        client.push(await runNative('client', url))
        escrow.push(await runNative('escrow', url))
        note(
          `run ${at} of ${runs}: ${Math.round(escrow.at(-1)!)}/s, its client ${Math.round(client.at(-1)!)}/s`,
        )
      }
    } finally {
      await server.stop()
    }
    return [
      row('rocketmq-native', 'tx/s', escrow, { limits: client, wanted: 'at least 0.80 of its own client' }),
    ]
  },
}
