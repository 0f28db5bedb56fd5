/** In which ways a Redis may lose what it has confirmed, by its own settings. */
import { EscrowError } from '../../core/errors.ts'
import { codeOf, pairs, type Reply } from './connection.ts'

/** What was found out about a stream and its server. */
export interface RedisShortfalls {
  readonly messageBytesMax: number
  /** When one machine dies. */
  readonly onMachineLoss: readonly string[]
  readonly otherwise: readonly string[]
}

type Ask = (...command: string[]) => Promise<Reply>

const SETTINGS = [
  'appendonly',
  'appendfsync',
  'min-replicas-to-write',
  'maxmemory',
  'maxmemory-policy',
  'proto-max-bulk-len',
] as const
const BULK_BYTES_DEFAULT = 512 * 1_048_576

/** Looks at the server's settings, its replicas and the stream's own time to live. */
export async function shortfallsOf(ask: Ask, topic: string, replicasMin: number): Promise<RedisShortfalls> {
  const onMachineLoss: string[] = []
  const otherwise: string[] = []
  const settings = await permitted(async () => {
    const replies = await Promise.all(SETTINGS.map((name) => ask('CONFIG', 'GET', name)))
    return new Map(replies.flatMap((reply) => [...pairs(reply)]))
  })
  if (settings === undefined) {
    onMachineLoss.push(`CONFIG GET is not permitted: ${SETTINGS.slice(0, 5).join(', ')} can't be checked`)
  } else {
    const setting = (name: (typeof SETTINGS)[number]) => settings.get(name) ?? ''
    if (setting('appendonly') !== 'yes')
      onMachineLoss.push(`appendonly is ${setting('appendonly')}: what is confirmed may be in memory alone`)
    else if (setting('appendfsync') !== 'always')
      onMachineLoss.push(`appendfsync is ${setting('appendfsync')}: what is confirmed is not on the disk yet`)
    if (Number(setting('min-replicas-to-write')) < replicasMin)
      onMachineLoss.push(
        `min-replicas-to-write is ${setting('min-replicas-to-write')}: it takes messages without ${replicasMin} replicas`,
      )
    if (setting('maxmemory') !== '0' && setting('maxmemory-policy').startsWith('allkeys-'))
      otherwise.push(`maxmemory-policy is ${setting('maxmemory-policy')}: it may evict the whole stream`)
  }
  const replication = await permitted(() => ask('INFO', 'replication'))
  // One that still copies the data set is connected, and has nothing yet.
  const replicas = String(replication).match(/^slave\d+:.*state=online/gm)?.length ?? 0
  if (replication === undefined)
    onMachineLoss.push("INFO is not permitted: connected_slaves can't be checked")
  else if (replicas < replicasMin)
    onMachineLoss.push(`connected_slaves is ${replicas}, not ${replicasMin}: there is no second copy`)
  const ttlMs = Number(await permitted(() => ask('PTTL', topic)))
  if (ttlMs >= 0) otherwise.push(`the key expires in ${ttlMs} ms (PEXPIRE), with all that is in it`)
  return {
    messageBytesMax: Number(settings?.get('proto-max-bulk-len') ?? BULK_BYTES_DEFAULT),
    onMachineLoss,
    otherwise,
  }
}

/** What was answered, or undefined where the server allows no such question: hosted ones often have no CONFIG at all. */
async function permitted<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask()
  } catch (error) {
    const cause = error instanceof EscrowError ? error.cause : undefined
    if (codeOf(cause) === 'NOPERM' || /unknown (sub)?command/i.test(String(cause))) return undefined
    throw error
  }
}
