/** Calls that were under way when a node went are made again once its lease is over, not when their own time is over. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { SLOTS, slotOf } from '../../src/core/ids.ts'
import { connect, type Handlers, refuse, type Session } from '../../src/index.ts'
import { inTurns } from '../../src/participant/addresses.ts'
import { openGrpcStream } from '../../src/wire/grpc-stream.ts'
import { CoordinatorProcess, type Json } from '../harness/coordinator-process.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'

const postgres = await service('postgres')
const LOGS = 16
const LEASE_MS = 5_000
const ATTEMPT_MS = 60_000
/** After this long without a change, an image is in the store, and no more in memory. */
const CHECKPOINTED_MS = 4_000
/** Of a call that is made again, and of a session that goes to the other node. */
const BACKOFF_MS = 1_000
const retry = { delayMs: 100, delayMsMax: 200 }

/** Where the participant is, and where the log: at the node that goes, or at the one that stays. */
const places = [
  { participant: 'goes', log: 'goes' },
  { participant: 'stays', log: 'goes' },
  { participant: 'goes', log: 'stays' },
] as const
const kinds = ['action', 'compensation', 'delivery', 'checkBack'] as const

/** When each call came, by what it was for. */
class Calls {
  readonly #atMs = new Map<string, number[]>()

  /** The first one of each is never answered. */
  async take(what: string): Promise<void> {
    const times = this.#atMs.get(what) ?? []
    this.#atMs.set(what, [...times, performance.now()])
    if (times.length === 0) await new Promise(() => {})
  }

  of(what: string): readonly number[] {
    return this.#atMs.get(what) ?? []
  }
}

/** A participant that tries one node first and then the other. */
async function participate(name: string, addresses: readonly string[], calls: Calls): Promise<Session> {
  const next = inTurns(addresses, 0)
  const session = await connect(() => openGrpcStream(next()), { service: name, closeTimeoutMs: 0 })
  const handlers: Handlers = {
    act: { action: (_, call) => calls.take(call.transactionId) },
    undo: { action: () => {}, compensation: (_, __, call) => calls.take(call.transactionId) },
    no: {
      action: () => {
        throw refuse('no', 'no')
      },
    },
    take: (message) => calls.take(message.transactionId),
  }
  await session.registerHandlers(handlers)
  await session.registerChecker(`${name}-checker`, async ({ transactionId }) => {
    await calls.take(transactionId)
    return 'rollback' as const
  })
  return session
}

async function begin(session: Session, kind: (typeof kinds)[number], id: string, to: string): Promise<void> {
  const step = (name: string, of: object) => ({
    name,
    action: `${to}/${name}`,
    attemptTimeoutMs: ATTEMPT_MS,
    retry,
    ...of,
  })
  const held = { id, checker: `${to}-checker`, retry: { ...retry, attemptTimeoutMs: ATTEMPT_MS } }
  const messages = [{ destination: `${to}/take`, body: Buffer.from('{}') }]
  switch (kind) {
    case 'action':
      await session.startSaga({ id, slip: { steps: [step('act', { readOnly: true })] } })
      return
    case 'compensation': {
      const steps = [step('undo', { compensation: true }), step('no', { readOnly: true })]
      await session.startSaga({ id, slip: { steps } })
      return
    }
    case 'delivery':
      await session.prepare({ ...held, messages })
      await session.commit({ id })
      return
    default:
      await session.prepare({ ...held, messages, checkBack: { delayMs: 1 } })
  }
}

/** The ids of calls that are begun: each kind at each place. */
async function beginAll(session: Session, going: ReadonlySet<number>, age: string): Promise<string[]> {
  const ids: string[] = []
  for (const kind of kinds) {
    for (const { participant, log } of places) {
      const isThere = (id: string): boolean =>
        going.has(Math.floor((slotOf(id) * LOGS) / SLOTS)) === (log === 'goes')
      const name = `${age}-${kind}-participant-${participant}-log-${log}`
      let id = name
      for (let n = 0; !isThere(id); n++) id = `${name}-${n}`
      await begin(session, kind, id, participant)
      ids.push(id)
    }
  }
  return ids
}

test.each(['killed', 'stopped'] as const)(
  'a node is %s: all are made again within its lease and 2 s',
  async (how) => {
    const options = {
      url: await postgres.database(`under_way_${how}`),
      options: { cluster: { leaseMs: LEASE_MS } },
    }
    await using going = await CoordinatorProcess.start(options)
    await using staying = await CoordinatorProcess.start(options)
    const logs = await until('the logs are shared', async () => {
      const { nodes } = await staying.ask('ListNodes', {})
      const mine: Json[] = nodes.find(({ node }: Json) => node === going.grpc)?.logs ?? []
      return mine.length === LOGS / 2 && new Set(mine.map(({ log = 0 }) => log as number))
    })
    const calls = new Calls()
    const sessions = await Promise.all([
      participate('goes', [going.grpc, staying.grpc], calls),
      participate('stays', [staying.grpc, going.grpc], calls),
    ])
    onTestFinished(async () => {
      await Promise.all(sessions.map((session) => session.close()))
    })
    const ids: string[] = []
    // The older ones are left to the due index of the store, the younger ones stand in the tail of their log.
    for (const age of ['old', 'young']) {
      if (age === 'young') await sleep(CHECKPOINTED_MS)
      ids.push(...(await beginAll(sessions[1], logs, age)))
      await until('all are called', () => ids.every((id) => calls.of(id).length === 1))
    }
    const wentMs = performance.now()
    if (how === 'killed') await going.kill()
    else going.program.pause()
    await until('all are called again', () => ids.every((id) => calls.of(id).length === 2), 2 * ATTEMPT_MS)
    const tookMs = ids.map((id) => Math.round((calls.of(id)[1] ?? 0) - wentMs))
    console.log(`called again after ${Math.min(...tookMs)} to ${Math.max(...tookMs)} ms`)
    const late = ids.filter((_, n) => (tookMs[n] ?? 0) > LEASE_MS + 2_000 + BACKOFF_MS)
    expect(late).toEqual([])
  },
)
