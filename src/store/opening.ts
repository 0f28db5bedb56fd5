/** What every record and every image begins with: format, key id, kind × 2 and a flag. */
import type { ByteReader, ByteWriter } from './binary.ts'

/** The layout that is written. */
export const RECORD_FORMAT = 1

/** Writes an opening. The key id is empty: nothing is encrypted yet. */
export function putOpening(writer: ByteWriter, kind: number, flag: boolean): void {
  writer.byte(RECORD_FORMAT)
  writer.byte(0)
  writer.byte(kind * 2 + (flag ? 1 : 0))
}

/** Reads the opening of this kind; answers its flag. Throws `storeCorrupt`. */
export function takeOpening(reader: ByteReader, kind: number): boolean {
  const format = reader.byte()
  if (format !== RECORD_FORMAT) throw reader.corrupt(`format ${format} is not known`)
  const keyId = reader.text()
  if (keyId !== '')
    throw reader.corrupt(`it is encrypted under the key ${JSON.stringify(keyId.slice(0, 100))}`)
  const found = reader.byte()
  if (found >> 1 !== kind) throw reader.corrupt(`kind ${found >> 1} is not known`)
  return (found & 1) === 1
}
