/** Opens the embedded store at the path given, says so, and holds it until it is told to end or is killed. */
import { randomBytes } from 'node:crypto'
import { openEmbeddedStore } from '../../../src/store/embedded/store.ts'

const [path = ''] = process.argv.slice(2)
try {
  const store = await openEmbeddedStore({ path, now: Date.now, random: (bytes) => randomBytes(bytes) })
  console.log('open')
  process.stdin.once('data', async () => {
    await store.close()
    process.exit(0)
  })
} catch (error) {
  console.log((error as { code?: string }).code)
  process.exit(1)
}
