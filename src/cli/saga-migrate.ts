/** The command that has running sagas go on with another version of their definition: one, or all of a version. */
import type { ErrorCode } from '../core/errors.ts'
import { EscrowError } from '../core/errors.ts'
import type { Session } from '../participant/session.ts'
import { define, type Given, printStatus, timeout } from './client-command.ts'
import { numberOf, UsageError } from './command.ts'
import { printTable, time } from './print.ts'

const VERSION_MAX = 1_000_000
/** Sagas of one look at the coordinator's list. */
const PAGE = 100
/** Migrations that are asked for at once. */
const AT_ONCE_MAX = 32
/** Refusals that are kept to be shown; the others are counted. */
const REFUSED_SHOWN_MAX = 1_000
/** How many sagas lie between two lines that tell how far it is, where no line can be written over. */
const TOLD_EVERY = 1_000

/** `escrow saga migrate ID`, `escrow saga migrate --name NAME`. */
export const sagaMigrate = define({
  name: 'saga migrate',
  summary: 'has running sagas go on with another version: one, or all of a version',
  usage: 'ID --to VERSION | --name NAME --from VERSION --to VERSION [OPTIONS]',
  help: `  --to VERSION           which version to go on with; it must declare a migration from the one that runs
  --name NAME            all sagas of this definition that have not ended, instead of one
  --from VERSION         of these, those of this version

A saga that is refused stays as it is, and the command ends with 1. With --name it may be repeated: what has been
migrated stays so. Sagas that began in the last seconds may be missing from the list that it works from; it tells as of
when that was.`,
  flags: { to: { type: 'string' }, name: { type: 'string' }, from: { type: 'string' } },
  takes: ['ID'],
  isOptional: true,
  async run({ id, values, session, options }) {
    const toVersion = numberOf('--to', values.to as string | undefined, 1, VERSION_MAX)
    const from = numberOf('--from', values.from as string | undefined, 1, VERSION_MAX)
    const name = values.name as string | undefined
    if (toVersion === undefined) throw new UsageError('saga migrate needs --to VERSION')
    if ((id === '') === (name === undefined))
      throw new UsageError('saga migrate needs either an ID, or --name NAME with --from VERSION')
    if (name === undefined) {
      if (from !== undefined) throw new UsageError('--from goes with --name: one saga knows its version')
      printStatus(id, await (await session()).migrateSaga({ id, toVersion }, timeout(options)), options)
      return undefined
    }
    if (from === undefined) throw new UsageError('--name needs --from VERSION')
    return migrateAll(await session(), { name, from, toVersion }, options)
  },
})

interface Tally {
  migrated: number
  ended: number
  /** Told in full up to a bound. */
  readonly refused: { readonly id: string; readonly code: ErrorCode; readonly message: string }[]
  refusedCount: number
}

async function migrateAll(
  session: Session,
  { name, from, toVersion }: { readonly name: string; readonly from: number; readonly toVersion: number },
  options: Given['options'],
): Promise<number> {
  const tally: Tally = { migrated: 0, ended: 0, refused: [], refusedCount: 0 }
  const { timeoutMs } = options
  let asOfMs = 0
  let pageToken = ''
  do {
    const page = await session.list({ kind: 'saga', saga: name, limit: PAGE, pageToken }, { timeoutMs })
    // Each page is a little newer than the one before: what is true for all of them is the oldest.
    asOfMs = asOfMs === 0 ? page.asOfMs : Math.min(asOfMs, page.asOfMs)
    pageToken = page.nextPageToken
    const ids = page.transactions.flatMap(({ id, saga }) => (saga?.version === from ? [id] : []))
    const next = ids.values()
    await Promise.all(
      Array.from({ length: Math.min(AT_ONCE_MAX, ids.length) }, async () => {
        for (const id of next) await migrateOne(session, { id, toVersion }, timeoutMs, tally)
      }),
    )
  } while (pageToken !== '')
  report(tally, asOfMs, options.json)
  return tally.refusedCount === 0 ? 0 : 1
}

async function migrateOne(
  session: Session,
  request: { readonly id: string; readonly toVersion: number },
  timeoutMs: number,
  tally: Tally,
): Promise<void> {
  try {
    await session.migrateSaga(request, { timeoutMs })
    tally.migrated += 1
  } catch (thrown) {
    const { code, message } = EscrowError.from(thrown)
    // It was running when the list was made, and needs no migration any more.
    if (code === 'alreadyEnded') tally.ended += 1
    else {
      tally.refusedCount += 1
      if (tally.refused.length < REFUSED_SHOWN_MAX) tally.refused.push({ id: request.id, code, message })
    }
  }
  tellProgress(tally)
}

const counts = ({ migrated, ended, refusedCount }: Tally): string =>
  `${migrated} migrated, ${refusedCount} refused, ${ended} ended meanwhile`

function tellProgress(tally: Tally): void {
  const { migrated, ended, refusedCount } = tally
  if (process.stderr.isTTY) process.stderr.write(`\r${counts(tally)}`)
  else if ((migrated + ended + refusedCount) % TOLD_EVERY === 0) process.stderr.write(`${counts(tally)}\n`)
}

function report(tally: Tally, asOfMs: number, json: boolean): void {
  if (process.stderr.isTTY) process.stderr.write('\n')
  const { refused, refusedCount } = tally
  if (json) return console.log(JSON.stringify({ ...tally, asOfMs }, undefined, 2))
  if (refused.length > 0) {
    printTable(
      ['ID', 'CODE', 'REASON'],
      refused.map(({ id, code, message }) => [id, code, message]),
    )
    if (refusedCount > refused.length) console.log(`and ${refusedCount - refused.length} more`)
    console.log()
  }
  console.log(`${counts(tally)}; of those listed as of ${time(asOfMs)}`)
}
