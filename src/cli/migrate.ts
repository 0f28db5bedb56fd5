import { optionsOfEnvironment, parseConfig } from '../config.ts'
import { EscrowError } from '../core/errors.ts'
import { type Command, parse } from './command.ts'
import { CONFIG_FILES, optionsOfFile } from './config-file.ts'

/** `escrow migrate`. */
export const migrate: Command = {
  name: 'migrate',
  summary: 'brings the schema of a PostgreSQL to what this version knows, or makes it',
  help: `Usage: escrow migrate [OPTIONS]

Brings the schema of a PostgreSQL to what this version knows, or makes it. A coordinator does that at its start, unless
\`store.migrate\` is false: then this does, under a user who may. Several at once are safe: one does it, the others
wait. A schema that a newer version wrote is refused.

  --config FILE      the configuration, default ${CONFIG_FILES.join(' or ')} in this folder, if there is one
  --store URL        postgres://USER:PASSWORD@HOST:PORT/DATABASE                  (ESCROW_STORE)`,
  async run(args) {
    const { values } = parse(args, { options: { config: { type: 'string' }, store: { type: 'string' } } })
    const flags = { store: values.store }
    const file = (await optionsOfFile(values.config)) ?? {}
    const { store } = parseConfig(flags, optionsOfEnvironment(process.env), file)
    if (store.kind !== 'postgres') {
      throw new EscrowError(
        'invalidArgument',
        'an embedded store has no schema, and is brought up to date where it is opened: name a PostgreSQL by --store',
      )
    }
    // Only here: the other commands needn't load a store.
    const { migrateStore } = await import('../stores.ts')
    const { format } = await migrateStore(store)
    console.log(`${store.url}: schema ${store.schema} has format ${format}`)
    return 0
  },
}
