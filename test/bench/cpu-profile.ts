/** Where a process spends its main thread's time: the engine's own sampling profiler, summed up by module. */
import { type Profiler, Session } from 'node:inspector/promises'

/** Microseconds of self time by group, and by function. */
export interface SelfTimes {
  readonly groups: ReadonlyMap<string, number>
  readonly functions: ReadonlyMap<string, number>
}

const SAMPLE_US = 250

/** Starts to sample this process; the returned function ends that. */
export async function sample(): Promise<() => Promise<SelfTimes>> {
  const session = new Session()
  session.connect()
  await session.post('Profiler.enable')
  await session.post('Profiler.setSamplingInterval', { interval: SAMPLE_US })
  await session.post('Profiler.start')
  return async () => {
    const { profile } = await session.post('Profiler.stop')
    session.disconnect()
    return selfTimes(profile)
  }
}

function selfTimes({ nodes, samples = [], timeDeltas = [] }: Profiler.Profile): SelfTimes {
  const byNode = new Map<number, number>()
  for (const [at, node] of samples.entries()) {
    // A sample stands for the time until the next one.
    const us = timeDeltas[at + 1] ?? 0
    byNode.set(node, (byNode.get(node) ?? 0) + us)
  }
  const groups = new Map<string, number>()
  const functions = new Map<string, number>()
  for (const { id, callFrame } of nodes) {
    const us = byNode.get(id) ?? 0
    if (us === 0 || callFrame.functionName === '(idle)') continue
    const group = groupOf(callFrame)
    groups.set(group, (groups.get(group) ?? 0) + us)
    const name = `${callFrame.functionName || '(anonymous)'} ${place(callFrame)}`
    functions.set(name, (functions.get(name) ?? 0) + us)
  }
  return { groups, functions }
}

function place({ url, lineNumber }: Profiler.Profile['nodes'][number]['callFrame']): string {
  if (url === '') return ''
  const path = url.replace(/^.*\/(?=src\/|test\/|node_modules\/)/, '')
  return `${path}:${lineNumber + 1}`
}

function groupOf({ functionName, url }: Profiler.Profile['nodes'][number]['callFrame']): string {
  if (functionName === '(garbage collector)') return 'gc'
  if (functionName === '(program)') return 'native, outside of JavaScript'
  const dependency = /\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)
  if (dependency !== null) return dependency[1]!
  const own = /\/(src\/[^/]+|test\/bench)\//.exec(url)
  if (own !== null) return own[1]!
  const node = /^node:(internal\/)?([\w-]+)/.exec(url)
  return node === null ? 'native, called from JavaScript' : `node ${node[2]}`
}
