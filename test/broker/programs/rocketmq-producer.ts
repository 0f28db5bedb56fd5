/**
 * A service with a "database" of one file, a line for each committed transaction: `ENDPOINTS CREDENTIALS TOPIC FILE MODE`.
 *
 * | mode          | what it does                                                                    |
 * |---------------|---------------------------------------------------------------------------------|
 * | `afterCommit` | is killed between the local commit and the commit of the message                |
 * | `beforeCommit`| is killed before the local commit                                               |
 * | `serve`       | answers check-backs until it is killed, and prints each                         |
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { rocketmqNative } from '../../../src/broker/rocketmq-native.ts'

const [endpoints = '', credentials = '', topic = '', file = '', mode = ''] = process.argv.slice(2)

const native = await rocketmqNative({
  endpoints,
  credentials: JSON.parse(credentials),
  topics: [topic],
  checker: ({ executionId }) => {
    const committed = existsSync(file) ? readFileSync(file, 'utf8').split('\n') : []
    const resolution = committed.includes(executionId) ? 'commit' : 'rollback'
    console.log(`${resolution} ${executionId}`)
    return resolution
  },
})
console.log('ready')
if (mode === 'serve') setInterval(() => {}, 1_000)
else {
  await native.sendInTransaction({ topic, body: { mode }, key: mode }, (tx) => {
    console.log(`sent ${tx.executionId}`)
    if (mode === 'afterCommit') appendFileSync(file, `${tx.executionId}\n`)
    process.kill(process.pid, 'SIGKILL')
  })
}
