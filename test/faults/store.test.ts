/** "A full disk and a corrupt segment; a second process on the same store": a clear error, or the right recovery. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, type TestContext, test } from 'vitest'
import { ERROR_CODES } from '../../src/core/errors.ts'
import { connect, EscrowError, type PrepareRequest } from '../../src/index.ts'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { until } from '../harness/until.ts'

const body = Buffer.alloc(200_000, 'x')
const request = (id: string): PrepareRequest => ({
  id,
  checker: 'orders',
  messages: [{ destination: 'shop/take', body }],
})

/** A participant in this process that notes what it is brought. */
async function openShop(coordinator: CoordinatorProcess, brought: string[]) {
  const session = await connect(coordinator.grpc, { service: 'shop', closeTimeoutMs: 0 })
  onTestFinished(() => session.close())
  await session.registerChecker('orders', () => 'unknown')
  await session.registerHandlers({ take: (message) => void brought.push(message.transactionId) })
  return session
}

interface Disk {
  readonly options: { readonly store?: string; readonly before?: string }
  makeRoom(coordinator: CoordinatorProcess): void
}

/** A file system of 8 MiB. */
function smallDisk(context: TestContext): Disk {
  const folder = mkdtempSync(join(tmpdir(), 'escrow-disk-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', folder], { stdio: 'pipe' })
  } catch (error) {
    rmSync(folder, { recursive: true })
    return context.skip(`no file system may be mounted here: ${(error as Error).message.trim()}`)
  }
  onTestFinished(() => {
    execFileSync('umount', ['-l', folder])
    rmSync(folder, { recursive: true })
  })
  return {
    options: { store: join(folder, 'store') },
    makeRoom: () => execFileSync('mount', ['-o', 'remount,size=256m', folder]),
  }
}

/** A process that may write no file longer than 8 MiB: EFBIG instead of ENOSPC, for users who may mount nothing. */
function shortFiles(): Disk {
  const folder = mkdtempSync(join(tmpdir(), 'escrow-disk-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const hasRoom = join(folder, 'has-room')
  return {
    // Ignored here and so in what bash becomes: by default the signal would end the process.
    options: { before: `trap '' XFSZ; [ -e ${hasRoom} ] || ulimit -S -f 8192` },
    makeRoom({ program }) {
      execFileSync('prlimit', ['--pid', String(program.pid), '--fsize=unlimited'])
      writeFileSync(hasRoom, '')
    },
  }
}

for (const [name, makeDisk] of [
  ['a file system that is full', smallDisk],
  ['a limit on the length of files', shortFiles],
] as const) {
  test(`a full disk: nothing acknowledged is lost, and it goes on when there is room (${name})`, async (context) => {
    const disk = makeDisk(context)
    await using coordinator = await CoordinatorProcess.start(disk.options)
    const brought: string[] = []
    const session = await openShop(coordinator, brought)
    const acknowledged: string[] = []
    let refused: EscrowError | undefined
    for (let n = 0; refused === undefined; n++) {
      expect(n).toBeLessThan(200)
      await session.prepare(request(`full-${n}`), { timeoutMs: 5_000 }).then(
        ({ id }) => acknowledged.push(id),
        (error) => {
          refused = error
        },
      )
    }
    expect(acknowledged.length).toBeGreaterThan(5)
    // It may have been written or not: `uncertain`, or the store's own word where nothing was decided.
    expect(refused).toBeInstanceOf(EscrowError)
    expect(['uncertain', 'storeUnavailable']).toContain(refused.code)
    expect(refused.remedy).toBe(ERROR_CODES[refused.code].remedy)
    const health = await fetch(`${coordinator.http}/readyz`)
    expect(health.status).toBe(503)
    expect(await health.text()).toMatch(/degraded.*(no room|failed)/)
    expect((await fetch(`${coordinator.http}/healthz`)).status).toBe(200)
    expect(coordinator.program.ending).toBeUndefined()

    disk.makeRoom(coordinator)
    await coordinator.ready()
    // Each that was acknowledged is there; the one that was uncertain is settled by asking again under its id.
    const uncertain = `full-${acknowledged.length}`
    expect(await session.prepare(request(uncertain))).toMatchObject({ id: uncertain, status: 'prepared' })
    for (const id of acknowledged) expect(await session.get({ id })).toMatchObject({ status: 'prepared' })
    for (const id of [...acknowledged, uncertain]) await session.commit({ id })
    await until('all are delivered', () => new Set(brought).size === acknowledged.length + 1)
    expect(brought.sort()).toEqual([...acknowledged, uncertain].sort())

    await coordinator.kill()
    await coordinator.start()
    for (const id of acknowledged)
      expect((await coordinator.ask('Get', { id })).transaction.status).toMatch(/DELIVERED/)
  })
}

test('a full disk at the start: refused with its remedy, and everything is there when there is room', async () => {
  await using coordinator = await CoordinatorProcess.start()
  const brought: string[] = []
  const session = await openShop(coordinator, brought)
  for (let n = 0; n < 40; n++) await session.prepare(request(`old-${n}`))
  await coordinator.kill()
  // No file may grow at all: not even the epoch can be raised.
  await using full = await CoordinatorProcess.make({
    store: coordinator.store,
    before: "trap '' XFSZ; ulimit -S -f 1",
  })
  const ending = await full.launch().end()
  expect(full.program.output).toMatch(/storeUnavailable: .*room/)
  expect(full.program.output).toContain(ERROR_CODES.storeUnavailable.remedy)
  expect(ending).toEqual({ code: 3, signal: null })
  await coordinator.start()
  for (let n = 0; n < 40; n++)
    expect(await session.get({ id: `old-${n}` })).toMatchObject({ status: 'prepared' })
})

test('a corrupt segment: it refuses to start with code, place and remedy, touches nothing, and a copy goes on', async () => {
  await using coordinator = await CoordinatorProcess.start()
  const brought: string[] = []
  const session = await openShop(coordinator, brought)
  for (let n = 0; n < 20; n++) await session.prepare(request(`kept-${n}`))
  // The last of them stand in segments that no checkpoint has been through.
  await coordinator.kill()
  const file = segmentFile(coordinator.store)
  const good = `${file}.good`
  copyFileSync(file, good)
  const bytes = readFileSync(file)
  let segments = 0
  for (let at = bytes.indexOf('EscS'); at >= 0; at = bytes.indexOf('EscS', at + 1)) {
    // Within the records, far behind the header: only a checksum tells.
    bytes[at + 150] = (bytes[at + 150] ?? 0) ^ 0x01
    segments += 1
  }
  expect(segments).toBeGreaterThan(0)
  writeFileSync(file, bytes)

  const ending = await coordinator.launch().end()
  expect(coordinator.program.output).toMatch(/storeCorrupt: .*segment \d+.*checksum is wrong/)
  expect(coordinator.program.output).toContain(ERROR_CODES.storeCorrupt.remedy)
  expect(ending).toEqual({ code: 1, signal: null })

  copyFileSync(good, file)
  await coordinator.start()
  for (let n = 0; n < 20; n++) {
    expect(await session.get({ id: `kept-${n}` })).toMatchObject({ status: 'prepared' })
    await session.commit({ id: `kept-${n}` })
  }
  await until('all are delivered', () => new Set(brought).size === 20)
})

/** The file that holds the segments. */
function segmentFile(store: string): string {
  const files = execFileSync('grep', ['-rl', 'EscS', store], { encoding: 'utf8' }).trim().split('\n')
  expect(files).toHaveLength(1)
  return files[0] as string
}

test('a second process on the same store is refused and told who has it; the first goes on', async () => {
  await using first = await CoordinatorProcess.start()
  const brought: string[] = []
  const session = await openShop(first, brought)
  await session.prepare(request('mine'))
  await using second = await CoordinatorProcess.make({ store: first.store })
  for (let round = 1; round <= 2; round++) {
    const ending = await second.launch().end()
    expect(second.program.output).toMatch(
      new RegExp(`storeInUse: process ${first.program.pid} has the store`),
    )
    expect(second.program.output).toContain(ERROR_CODES.storeInUse.remedy)
    expect(ending).toEqual({ code: 1, signal: null })
    expect(await session.commit({ id: 'mine' })).toMatchObject({
      status: expect.stringMatching(/committed|delivered/),
    })
  }
  // A first one that stands still is still the first one: no clock lets the second in.
  first.program.pause()
  expect((await second.launch().end()).code).toBe(1)
  first.program.resume()
  await session.wait({ id: 'mine' })
  // One that was killed holds nothing.
  await first.kill()
  await second.start()
  expect((await second.ask('Get', { id: 'mine' })).transaction.status).toBe('TRANSACTION_STATUS_DELIVERED')
  await second.kill()
  expect(brought).toEqual(['mine'])
})
