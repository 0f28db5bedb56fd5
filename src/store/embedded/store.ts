/**
 * The embedded store: one folder and one process. Made for one node: development, small services, a library in somebody's
 * process. Two LMDB environments in it, `log` and `images`, so that neither waits for the other; in `owner`, a third says
 * whose it is.
 */
import { accessSync, closeSync, constants, fsyncSync, mkdirSync, openSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { EscrowError } from '../../core/errors.ts'
import { corrupt } from '../binary.ts'
import type { Store } from '../store.ts'
import { EmbeddedDirectory } from './directory.ts'
import { Environment, type EnvironmentOptions, type Table } from './environment.ts'
import { EmbeddedImages } from './images.ts'
import { putFirstMark } from './indexing.ts'
import { EmbeddedLogs, type LogTables, logTables, putNewLogs, wasClaimed } from './logs.ts'
import { type Ownership, own } from './owner.ts'
import { keyText, textKey } from './row.ts'

/** What the embedded store takes. */
export interface EmbeddedStoreOptions {
  /** A folder; made if it isn't there, for its owner only. */
  readonly path: string
  /** How long finished transactions are kept at least: 24 h (the default) to 31 days. */
  readonly retentionMs?: number
  /** Wall clock, milliseconds since the Unix epoch. */
  readonly now: () => number
  /** Unpredictable bytes. */
  readonly random: (bytes: number) => Uint8Array
  /** Told how it gets on with what an older version stored, and why it doesn't. Default: nobody. */
  readonly log?: (level: 'info' | 'warn', message: string) => void
  /** Called after each durable write of images; what it throws stops the checkpoint, or the indexing, there. For tests. */
  readonly afterWrite?: () => void
}

/** 2: rows of sagas are indexed by their search attributes. A store of format 1 becomes one when it is opened. */
const FORMAT = 2
const LOGS = 1
const DAY_MS = 86_400_000
const RETENTION_DAYS_MAX = 31
/** More make each write slower once they lie scattered, fewer let the file grow: see `EnvironmentOptions`. */
const FREE_PAGES_MAX = 15_000
const IN_LOG = { tablesMax: 4, freePagesMax: FREE_PAGES_MAX }
/** A table for each day of the retention, the one that began before it, today's and tomorrow's, and seven more. */
const IN_IMAGES = { tablesMax: RETENTION_DAYS_MAX + 3 + 7, freePagesMax: FREE_PAGES_MAX }
const FOLDERS = ['log', 'images', 'owner']
const STORE_ID_CHARACTERS = 'abcdefghijklmnopqrstuvwxyz0123456789'
const STORE_ID_LENGTH = 8

/**
 * Opens the embedded store, or makes it. Rejects with `invalidArgument` (an option, or a path that can't be written),
 * `storeInUse` (another process has it; `details.pid`), `storeFormat` (written by a newer version), `storeCorrupt`.
 */
export async function openEmbeddedStore(options: EmbeddedStoreOptions): Promise<Store> {
  const { retentionMs } = options
  const path = parsePath(options.path)
  const retention = parseRetention(retentionMs)
  makeFolders(path)
  const ownership = await guarded(path, () => own(path))
  try {
    return await guarded(path, () => openOwned(path, retention, ownership, options))
  } catch (error) {
    await ownership.release()
    throw error
  }
}

async function openOwned(
  path: string,
  retentionMs: number,
  ownership: Ownership,
  options: EmbeddedStoreOptions,
): Promise<Store> {
  const opened: Environment[] = []
  const open = (folder: string, how: EnvironmentOptions): Environment => {
    const environment = new Environment(join(path, folder), how)
    opened.push(environment)
    return environment
  }
  const close = async (): Promise<void> => {
    for (const environment of opened) await environment.close()
  }
  try {
    const environment = open('log', IN_LOG)
    const imagesEnvironment = open('images', IN_IMAGES)
    const tables = logTables(environment)
    const meta = await identity(path, { log: environment, images: imagesEnvironment, tables }, options.random)
    const { now, log = () => {}, afterWrite = () => {} } = options
    const images = new EmbeddedImages({ environment: imagesEnvironment, retentionMs, now, log, afterWrite })
    images.start()
    const fenceImages = (log: number, epoch: number): Promise<void> => images.fence(log, epoch)
    return {
      log: new EmbeddedLogs({ environment, tables, ...meta, fenceImages }),
      images,
      directory: new EmbeddedDirectory(environment),
      close: once(async () => {
        await images.stop()
        await close()
        await ownership.release()
      }),
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Closing twice is closing once. */
function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined
  return () => {
    done ??= work()
    return done
  }
}

interface Halves {
  readonly log: Environment
  readonly images: Environment
  readonly tables: LogTables
}

/**
 * What the store says of itself; written, durably, if it is new: in `log` first, then in `images`. One half without the
 * other, or with another store's, would be read as a loss that nobody notices.
 */
async function identity(path: string, halves: Halves, random: (bytes: number) => Uint8Array): Promise<Meta> {
  const { log, images, tables } = halves
  const inLog = log.table('meta')
  const inImages = images.table('meta')
  const other = inImages.get(META_KEY)
  let known = readMeta(inLog)
  if (known === undefined) {
    if (other !== undefined) throw corrupt(`the store at ${path} has images, but its folder 'log' is empty`)
    known = { format: FORMAT, storeId: mintStoreId(random), logs: LOGS }
    const value = Buffer.from(JSON.stringify(known))
    await log.writeAlways(() => {
      inLog.put(META_KEY, value)
      putNewLogs(tables, LOGS)
    })
  }
  const { storeId } = known
  if (other === undefined) {
    if (wasClaimed(log, tables, 0))
      throw corrupt(`the store at ${path} has a log, but its folder 'images' is empty`)
    await images.writeAlways(() => void inImages.put(META_KEY, textKey(storeId)))
    // The files are durable; so must be their names.
    syncFolders(path)
  } else if (keyText(other) !== storeId) {
    throw corrupt(`the store at ${path} has the log of ${storeId} and the images of ${keyText(other)}`)
  }
  if (known.format < FORMAT) await raiseFormat(known, inLog, halves)
  return known
}

/** In this order: as long as the format is the old one, whoever knows only that may write rows that are not indexed. */
async function raiseFormat(known: Meta, inLog: Table, { log, images }: Halves): Promise<void> {
  const inImages = images.table('meta')
  await images.writeAlways(() => putFirstMark(inImages))
  const value = Buffer.from(JSON.stringify({ ...known, format: FORMAT }))
  await log.writeAlways(() => void inLog.put(META_KEY, value))
}

const META_KEY = textKey('store')

interface Meta {
  readonly format: number
  readonly storeId: string
  readonly logs: number
}

function readMeta(meta: Table): Meta | undefined {
  const value = meta.get(META_KEY)
  if (value === undefined) return undefined
  const { format, storeId, logs } = parseJson(value)
  if (typeof format !== 'number') throw corrupt("the store's format is unreadable")
  if (format > FORMAT) {
    throw new EscrowError(
      'storeFormat',
      `the store has format ${format}, this version knows formats up to ${FORMAT}`,
    )
  }
  if (typeof storeId !== 'string' || typeof logs !== 'number')
    throw corrupt("the store's identity is unreadable")
  return { format, storeId, logs }
}

function parseJson(value: Uint8Array): { format?: unknown; storeId?: unknown; logs?: unknown } {
  try {
    return JSON.parse(Buffer.from(value).toString('utf8')) ?? {}
  } catch (cause) {
    throw new EscrowError('storeCorrupt', "the store's identity is unreadable", { cause })
  }
}

function mintStoreId(random: (bytes: number) => Uint8Array): string {
  return Array.from(
    random(STORE_ID_LENGTH),
    (byte) => STORE_ID_CHARACTERS[byte % STORE_ID_CHARACTERS.length],
  ).join('')
}

function parsePath(path: string): string {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new EscrowError('invalidArgument', `path ${JSON.stringify(path)} is not the path of a folder`)
  }
  return resolve(path)
}

function parseRetention(retentionMs: number = DAY_MS): number {
  if (Number.isFinite(retentionMs) && retentionMs >= DAY_MS && retentionMs <= RETENTION_DAYS_MAX * DAY_MS)
    return retentionMs
  const bounds = `from ${DAY_MS} (24 h) to ${RETENTION_DAYS_MAX * DAY_MS} (${RETENTION_DAYS_MAX} days)`
  throw new EscrowError('invalidArgument', `retentionMs ${retentionMs} is not ${bounds}`)
}

const foldersOf = (path: string): string[] => [path, ...FOLDERS.map((name) => join(path, name))]

function makeFolders(path: string): void {
  try {
    for (const folder of foldersOf(path)) {
      mkdirSync(folder, { recursive: true, mode: 0o700 })
      accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK)
    }
  } catch (cause) {
    throw unwritable(path, cause)
  }
}

function syncFolders(path: string): void {
  for (const folder of [...foldersOf(path), dirname(path)]) {
    const descriptor = openSync(folder, 'r')
    try {
      fsyncSync(descriptor)
    } finally {
      closeSync(descriptor)
    }
  }
}

/** What LMDB and the file system throw while a store opens, as errors that say what to do. */
async function guarded<T>(path: string, open: () => Promise<T>): Promise<T> {
  try {
    return await open()
  } catch (thrown) {
    if (thrown instanceof EscrowError) throw thrown
    const { code, message } = thrown as { code?: number | string; message: string }
    // EACCES, EPERM, EROFS
    if (code === 13 || code === 1 || code === 30) throw unwritable(path, thrown)
    if (code === 28)
      throw new EscrowError('storeUnavailable', `no room to open the store at ${path}`, { cause: thrown })
    throw new EscrowError('storeCorrupt', `the store at ${path} can't be opened: ${message}`, {
      cause: thrown,
    })
  }
}

function unwritable(path: string, cause: unknown): EscrowError {
  const { message } = cause as Error
  return new EscrowError('invalidArgument', `path ${path} can't be used as a store: ${message}`, { cause })
}
