/** "Unknown checker, destination or namespace": refused at the door, before anything is held. */
import { expect, test } from 'vitest'
import { half, refusal, refusedEverywhere, world } from './world.ts'

test('an unknown checker is refused by every door, and known once a service has registered it', async () => {
  const here = await world()
  const request = half({ id: 'c-1', checker: 'nobody' })
  await refusedEverywhere(here, 'prepare', request, ['unknownChecker', /"nobody"/])
  await refusedEverywhere(here, 'get', { id: 'c-1' }, ['notFound', /no such transaction/])
  const session = await here.connect()
  await session.registerChecker('nobody', () => 'unknown')
  expect((await session.prepare(request)).status).toBe('prepared')
})

test('an unknown destination is refused by every door: a handler, a service, a broker', async () => {
  const here = await world()
  for (const destination of ['shop/give', 'nobody/take', 'kafka:orders']) {
    const messages = [{ destination: 'shop/take' }, { destination }]
    const request = half({ id: 'd-1', messages })
    await refusedEverywhere(here, 'prepare', request, [
      'unknownDestination',
      /shop\/give|nobody\/take|"kafka"/,
    ])
  }
  await refusedEverywhere(here, 'get', { id: 'd-1' }, ['notFound', /no such transaction/])
})

test('an unknown namespace is refused by every door, and by the hello of a session', async () => {
  const here = await world({ namespaces: ['default', 'other'] })
  for (const [op, request] of [
    ['prepare', half({ namespace: 'nowhere' })],
    ['get', { namespace: 'nowhere', id: 'n-1' }],
    ['list', { namespace: 'nowhere' }],
  ] as const) {
    for (const { name, ask } of here.doors) {
      // A session has one namespace, told in its hello: another one's name is not even looked at.
      if (name === 'session') await refusal(ask(op, request), 'invalidArgument', /"nowhere"/)
      else await refusal(ask(op, request), 'unknownNamespace', /"nowhere"/)
    }
  }
  await refusal(here.connect({ namespace: 'nowhere' }), 'unknownNamespace', /"nowhere"/)
  // The names of one namespace are none of another's.
  const other = await here.connect({ namespace: 'other' })
  await refusal(other.prepare(half()), 'unknownChecker', /namespace other/)
})
