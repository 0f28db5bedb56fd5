/** Loaded into the coordinator under test before it starts: appends are counted, and its main thread can be sampled. */
import { EmbeddedHandle } from '../../src/store/embedded/logs.ts'
import { type SelfTimes, sample } from './cpu-profile.ts'

let appends = 0
const { append } = EmbeddedHandle.prototype
EmbeddedHandle.prototype.append = function (segment) {
  appends += 1
  return append.call(this, segment)
}

let endSampling: (() => Promise<SelfTimes>) | undefined
process.on('message', async (asked) => {
  if (asked === 'appends') process.send?.({ appends })
  if (asked === 'sample') {
    endSampling = await sample()
    process.send?.({})
  }
  if (asked === 'sampled') process.send?.(await endSampling?.())
})
// It ends as it would without anybody listening here.
process.channel?.unref()
