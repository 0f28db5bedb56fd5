/** A folder for one run of the shop: the coordinator's store, and what came by standard input. */
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { isAlive } from './process-tree.ts'

const inputBytesMax = 64 << 20

/** The folder of this run. */
export interface RunFolder {
  readonly path: string
  /** Whether other shops are running on this machine. */
  readonly otherShops: boolean
}

/** Makes the folder, and removes those of runs that were killed. */
export function makeRunFolder(): RunFolder {
  const path = fs.mkdtempSync(join(tmpdir(), `escrow-shop-${process.pid}-`))
  let otherShops = false
  for (const name of fs.readdirSync(tmpdir())) {
    const owner = Number(/^escrow-shop-(\d+)-/.exec(name)?.[1] ?? process.pid)
    if (owner === process.pid) continue
    const other = join(tmpdir(), name)
    const isMine = fs.lstatSync(other, { throwIfNoEntry: false })?.uid === process.getuid?.()
    if (isAlive(owner)) otherShops = true
    else if (isMine) fs.rmSync(other, { recursive: true, force: true })
  }
  return { path, otherShops }
}

/** Keeps standard input in a file, as an order desk that was killed reads its input again. Ends with the input. */
export async function keepInput(
  input: NodeJS.ReadableStream,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  let bytes = 0
  const bound = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length
      if (bytes > inputBytesMax) done(new Error(`standard input is longer than ${inputBytesMax} bytes`))
      else done(null, chunk)
    },
  })
  await pipeline(input, bound, fs.createWriteStream(path), { signal })
}
