/** The part of the composition root that chooses a store. */
import type { Config } from './config.ts'
import type { Runtime } from './core/runtime.ts'
import { systemRuntime } from './runtime.ts'
import { openEmbeddedStore } from './store/embedded/store.ts'
import { migratePostgresStore, openPostgresStore } from './store/postgres/store.ts'
import type { Store } from './store/store.ts'

/** Opens the store that the configuration names. Rejects as `Coordinator.start` does. */
export async function openStore(
  { store, retentionMs, cluster }: Pick<Config, 'store' | 'retentionMs' | 'cluster'>,
  runtime: Runtime,
  log: (level: 'info' | 'warn', message: string) => void,
): Promise<Store> {
  const shared = { ...worldOf(runtime), retentionMs, now: () => runtime.now() }
  if (store.kind === 'embedded') return await openEmbeddedStore({ ...shared, path: store.path, log })
  const { schema, logs, migrate } = store
  const url = store.url.reveal()
  return await openPostgresStore({ ...shared, url, schema, logs, migrate, leaseMs: cluster.leaseMs })
}

/** Brings the schema of a PostgreSQL to what this version knows, or makes it; answers its format. Rejects likewise. */
export async function migrateStore({
  url,
  schema,
  logs,
}: Extract<Config['store'], { readonly kind: 'postgres' }>): Promise<{ readonly format: number }> {
  return await migratePostgresStore({ ...worldOf(systemRuntime), url: url.reveal(), schema, logs })
}

const worldOf = (runtime: Runtime): Pick<Runtime, 'setTimer'> & { random(count: number): Uint8Array } => ({
  random: (count) => runtime.randomBytes(count),
  setTimer: (callback, delayMs) => runtime.setTimer(callback, delayMs),
})
