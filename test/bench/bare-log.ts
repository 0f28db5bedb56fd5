import { open } from 'lmdb'

/** A log that only appends: no fence, no checksum, no checkpoint. */
export interface BareLog {
  /** Resolves once the segment is on the disk. */
  append(segment: Buffer): Promise<unknown>
  close(): Promise<void>
}

/** How many segments stay: older ones are removed, as the real log trims them behind its checkpoints. */
const SEGMENTS_KEPT = 2_000

/** Opens a log in `folder` with the same library that the embedded store uses. */
export function openBareLog(folder: string): BareLog {
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
