/** The store's contract on a PostgreSQL in a container: another version, another system beneath, and the network between. */
import { service } from '../services/require.ts'
import { storeContract } from '../store/contract.ts'
import { NOON_MS } from '../store/contract-fixtures.ts'
import { PostgresWorld } from '../store/postgres-world.ts'

const postgres = await service('postgres', { backend: 'docker' })
const world = new PostgresWorld(postgres)

storeContract('postgres in a container', async () => {
  await world.begin()
  let nowMs = NOON_MS
  return {
    open: () => world.store({ now: () => nowMs }),
    setNow: (wallMs) => {
      nowMs = wallMs
    },
    dispose: () => world.end(),
  }
})
