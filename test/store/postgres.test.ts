import { randomBytes } from 'node:crypto'
import { systemRuntime } from '../../src/runtime.ts'
import {
  openPostgresStore,
  type PostgresStore,
  type PostgresStoreOptions,
} from '../../src/store/postgres/store.ts'
import { service } from '../services/require.ts'
import { storeContract } from './contract.ts'
import { NOON_MS } from './contract-fixtures.ts'

const postgres = await service('postgres')
let databases = 0
let url: string

const newDatabase = async (): Promise<string> => {
  databases += 1
  return await postgres.database(`store_${databases}`)
}

const openStore = (options: Partial<PostgresStoreOptions> = {}): Promise<PostgresStore> =>
  openPostgresStore({
    url,
    now: () => NOON_MS,
    random: (bytes) => randomBytes(bytes),
    setTimer: systemRuntime.setTimer,
    ...options,
  })

storeContract('postgres', async () => {
  url = await newDatabase()
  let nowMs = NOON_MS
  return {
    open: () => openStore({ now: () => nowMs }),
    setNow: (wallMs) => {
      nowMs = wallMs
    },
    dispose: async () => {},
  }
})
