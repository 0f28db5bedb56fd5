/** Loaded into the coordinator under test before it starts: appends are counted, and its main thread can be sampled. */
import { EmbeddedHandle } from '../../src/store/embedded/logs.ts'
import type { LogHandle, Segment } from '../../src/store/log.ts'
import { PostgresHandle } from '../../src/store/postgres/logs.ts'
import { type SelfTimes, sample } from './cpu-profile.ts'

/** What was appended to the logs since the start. */
export interface Appended {
  readonly appends: number
  readonly bytes: number
}

let appends = 0
let bytes = 0
for (const { prototype } of [EmbeddedHandle, PostgresHandle]) {
  const { append } = prototype as LogHandle
  prototype.append = function (this: LogHandle, segment: Segment) {
    appends += 1
    bytes += segment.bytes.length
    return append.call(this, segment)
  }
}

let endSampling: (() => Promise<SelfTimes>) | undefined
process.on('message', async (asked) => {
  if (asked === 'appended') process.send?.({ appends, bytes } satisfies Appended)
  if (asked === 'sample') {
    endSampling = await sample()
    process.send?.({})
  }
  if (asked === 'sampled') process.send?.(await endSampling?.())
})
// It ends as it would without anybody listening here.
process.channel?.unref()
