import { open } from 'lmdb'
import pg from 'pg'

/** A log that only appends: no fence, no checksum, no checkpoint. */
export interface BareLog {
  /** Resolves once the segment is on the disk. */
  append(segment: Buffer): Promise<unknown>
  close(): Promise<void>
}

/** How many segments stay: older ones are removed, as the real log trims them behind its checkpoints. */
const SEGMENTS_KEPT = 2_000

/** Opens a log where a store of this name would be: in a folder, or by the URL of a PostgreSQL. */
export async function openBareLog(where: string): Promise<BareLog> {
  return where.startsWith('postgres:') ? await inPostgres(where) : inFolder(where)
}

/** A row a segment, in binary, and nothing beside it. */
async function inPostgres(url: string): Promise<BareLog> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  await client.query(
    'create table if not exists bare_log (sequence bigint primary key, bytes bytea not null)',
  )
  await client.query('alter table bare_log alter column bytes set storage external')
  const { rows } = await client.query<{ last: string }>(
    'select coalesce(max(sequence), 0) as last from bare_log',
  )
  let sequence = Number(rows[0]?.last)
  let trimmed = sequence
  return {
    async append(segment) {
      sequence += 1
      const appended = client.query({
        name: 'append',
        text: 'insert into bare_log values ($1, $2)',
        values: [sequence, segment],
      })
      if (sequence - trimmed > 2 * SEGMENTS_KEPT) {
        trimmed = sequence - SEGMENTS_KEPT
        void client.query({
          name: 'trim',
          text: 'delete from bare_log where sequence <= $1',
          values: [trimmed],
        })
      }
      await appended
    },
    close: () => client.end(),
  }
}

/** With the same library that the embedded store uses. */
function inFolder(folder: string): BareLog {
  const database = open<Buffer, number>({
    path: folder,
    encoding: 'binary',
    keyEncoding: 'uint32',
    compression: false,
    separateFlushed: true,
  })
  let sequence = 0
  return {
    append(segment) {
      sequence += 1
      if (sequence > SEGMENTS_KEPT) void database.remove(sequence - SEGMENTS_KEPT)
      const written = database.put(sequence, segment) as Promise<boolean> & {
        readonly flushed: Promise<boolean>
      }
      return written.flushed
    },
    close: () => database.close(),
  }
}
