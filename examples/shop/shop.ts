/** One run of the shop, from the empty databases to the compared books. */
import { rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { type OpenBroker, openBroker } from './broker-server.ts'
import { type CoordinatorPorts, choosePorts, coordinatorProgram, waitUntilSettled } from './coordinator.ts'
import { type OpenDatabases, openDatabases } from './databases.ts'
import { Killer } from './kills.ts'
import { Ledger } from './ledger.ts'
import type { Options } from './options.ts'
import { type OrderFile, readOrders } from './orders.ts'
import { type Reconciliation, reconcile, type ShopDatabases } from './reconciliation.ts'
import { keepInput, makeRunFolder } from './run-folder.ts'
import type { Screen } from './screen.ts'
import { type Listener, type Program, Supervised } from './supervisor.ts'

/** The services, with the database of each. The order desk comes last: the others are there before it sends. */
const services = {
  inventory: 'inventory',
  payment: 'payment',
  audit: 'audit',
  'order-desk': 'orders',
} as const
/** With --kill the orders are spread over time, so that each process can be killed at work in each window. */
const killedOrdersPerSecond = 75
const killedMs = { min: 24_000, max: 54_000 }
const killedOrdersMin = 1_200
const stallMsMax = 60_000

/** The processes of a run, and what is known of them. */
export class Shop {
  readonly ledger = new Ledger()
  readonly #options: Options
  readonly #screen: Screen
  readonly #folder = makeRunFolder()
  readonly #processes: Supervised[] = []
  #databases: OpenDatabases | undefined
  #broker: OpenBroker | undefined
  #ports: CoordinatorPorts | undefined
  #input: OrderFile = { orders: [], rejected: [] }
  #killer: Killer | undefined

  constructor(options: Options, screen: Screen) {
    this.#options = options
    this.#screen = screen
  }

  get input(): OrderFile {
    return this.#input
  }

  get ports(): CoordinatorPorts {
    return this.#ports!
  }

  /** The database of each service. */
  get databaseUrls(): ShopDatabases<string> {
    return this.#databases!.urls
  }

  /** Undefined without --kill. */
  get killer(): Killer | undefined {
    return this.#killer
  }

  /** The processes that can be killed, by name. */
  get names(): string[] {
    return this.#processes.map((process) => process.name)
  }

  /** Starts everything, and resolves when each process is ready and the first orders are on their way. */
  async start(signal: AbortSignal): Promise<void> {
    const { orders = relative('', join(import.meta.dirname, 'orders.jsonl')), kill } = this.#options
    const file = orders === '-' ? join(this.#folder.path, 'orders.jsonl') : orders
    if (orders === '-') {
      this.#screen.print('Reading orders from standard input until it ends.')
      await keepInput(process.stdin, file, signal)
    }
    this.#input = readOrders(file)
    const count = this.#input.orders.length
    if (kill && count < killedOrdersMin) {
      throw new Error(
        `--kill needs at least ${killedOrdersMin} orders, to have work in flight; there are ${count}`,
      )
    }
    this.#databases = await openDatabases(process.env.DATABASE_URL)
    const { broker } = this.#options
    if (broker !== undefined) this.#broker = await openBroker(broker, process.env.BROKER_URL || undefined)
    this.#ports = await choosePorts(this.#folder)
    this.#screen.print(`databases: ${this.#databases.server}`)
    if (this.#broker !== undefined) this.#screen.print(`broker: ${this.#broker.server}`)
    const taken = this.#ports.grpc === 7_411 ? '' : ' (7411 or 7410 is taken, or another shop runs)'
    this.#screen.print(`coordinator: gRPC on ${this.#ports.grpc}, HTTP on ${this.#ports.http}${taken}`)
    this.#screen.print(`orders: ${count} in ${orders === '-' ? 'standard input' : orders}`)
    await this.#startProcesses(file, signal)
  }

  /** Resolves when each order has its outcome, each kill is over, and no transaction is open. */
  async work(signal: AbortSignal): Promise<void> {
    if (this.#options.kill) this.#killer = this.#makeKiller()
    this.#screen.startProgress(() => this.#progress())
    try {
      await this.#orFailed(signal, Promise.all([this.#killer?.run(), this.#ordersHaveOutcomes(signal)]))
      await this.#orFailed(signal, waitUntilSettled(this.ports, signal))
      if (this.#broker !== undefined) await this.#orFailed(signal, this.#allLogged(signal))
    } finally {
      this.#screen.endProgress()
    }
  }

  /** Waits until audit has read as many confirmations as there are; gives up where it goes no further. */
  async #allLogged(signal: AbortSignal): Promise<void> {
    await this.#withDatabases(async ({ orders, audit }) => {
      const count = async (of: typeof orders, table: string) =>
        Number((await of.query(`select count(*) as n from ${table}`)).rows[0]?.n)
      let last = -1
      for (let changedAt = performance.now(); performance.now() - changedAt < stallMsMax; ) {
        const logged = await count(audit, 'log')
        if (logged >= (await count(orders, 'confirmations'))) return
        if (logged !== last) changedAt = performance.now()
        last = logged
        await sleep(200, undefined, { signal })
      }
    })
  }

  /** Compares the input with the databases. */
  async reconcile(): Promise<Reconciliation> {
    return await this.#withDatabases((databases) => reconcile(this.#input, databases))
  }

  async #withDatabases<T>(work: (databases: ShopDatabases<Client>) => Promise<T>): Promise<T> {
    const urls = Object.entries(this.databaseUrls) as [keyof ShopDatabases, string][]
    const clients = urls.map(([name, connectionString]) => [name, new Client({ connectionString })] as const)
    try {
      for (const [, client] of clients) await client.connect()
      return await work(Object.fromEntries(clients) as unknown as ShopDatabases<Client>)
    } finally {
      await Promise.allSettled(clients.map(([, client]) => client.end()))
    }
  }

  /** Rejects when a process was given up, or when the signal comes. */
  async untilFailure(signal: AbortSignal): Promise<never> {
    return await this.#orFailed(signal, new Promise<never>(() => {}))
  }

  #makeKiller(): Killer {
    const { seed = Math.floor(Math.random() * 2 ** 32) } = this.#options
    const orders = this.#input.orders.length
    const orderDesk = this.#processes.find((process) => process.name === 'order-desk')
    return new Killer({
      seed,
      spanMs: Math.min(killedMs.max, Math.max(killedMs.min, (orders / killedOrdersPerSecond) * 1_000)),
      victims: this.#processes,
      ledger: this.ledger,
      orders,
      allow: (count) => orderDesk?.send(String(count)),
      print: (line) => this.#screen.print(line),
    })
  }

  /** Ends all processes: first the services, then what they need. */
  async stop(): Promise<void> {
    const [coordinator, ...others] = this.#processes
    await Promise.all(others.map((process) => process.stop()))
    await coordinator?.stop()
    await this.#broker?.stop()
    await this.#databases?.stop()
    rmSync(this.#folder.path, { recursive: true, force: true })
  }

  async #startProcesses(file: string, signal: AbortSignal): Promise<void> {
    const program = coordinatorProgram(this.ports, join(this.#folder.path, 'coordinator'))
    const brokerEnv = this.#broker?.env ?? {}
    const coordinator = this.#add({ ...program, env: { ...program.env, ...brokerEnv } })
    await this.#orFailed(signal, coordinator.ready())
    for (const [name, database] of Object.entries(services)) {
      const env: Record<string, string> = {
        ...brokerEnv,
        DATABASE_URL: this.databaseUrls[database],
        ESCROW_ADDRESS: `127.0.0.1:${this.ports.grpc}`,
      }
      const args = [join(import.meta.dirname, `${name}.ts`)]
      if (name === 'order-desk') {
        args.push(file)
        if (this.#options.kill) env.SHOP_PACED = '1'
        // The names that it sends to are known only once those who have them were there.
        await this.#orFailed(signal, Promise.all(this.#processes.map((process) => process.ready())))
      }
      this.#add({ name, args, env })
    }
    await this.#orFailed(signal, this.#processes.at(-1)!.ready())
  }

  #add(program: Program): Supervised {
    const listener: Listener = {
      log: (name, line) => this.#screen.print(`${name.padEnd(11)} | ${line}`),
      report: (name, words) => {
        this.ledger.report(name, words)
        if (words[0] === 'dies') {
          const at = `${words[1]}, after its COMMIT and before its answer`
          this.#screen.print(`${name} kills itself at ${at}: it is started again`)
        }
      },
      ended: (name) => this.ledger.ended(name),
    }
    const supervised = new Supervised(program, listener)
    this.#processes.push(supervised)
    supervised.start()
    return supervised
  }

  /** Waits until the order desk has an outcome for each order; rejects when nothing has happened for a minute. */
  async #ordersHaveOutcomes(signal: AbortSignal): Promise<void> {
    let last = -1
    let changedAt = performance.now()
    while (!this.ledger.finished) {
      if (this.ledger.outcomes.size !== last) changedAt = performance.now()
      last = this.ledger.outcomes.size
      if (performance.now() - changedAt > stallMsMax) {
        throw new Error(`no order has got its outcome for ${stallMsMax / 1_000} s: ${this.#progress()}`)
      }
      await sleep(50, undefined, { signal })
    }
  }

  async #orFailed<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
    signal.throwIfAborted()
    let stop = () => {}
    const aborted = new Promise<never>((_, reject) => {
      stop = () => reject(signal.reason)
      signal.addEventListener('abort', stop)
    })
    try {
      return await Promise.race([work, aborted, ...this.#processes.map((process) => process.failed)])
    } finally {
      signal.removeEventListener('abort', stop)
      // What lost the race may still reject, with nobody left to hear it.
      work.catch(() => {})
    }
  }

  #progress(): string {
    const { ledger } = this
    const outcomes = [...ledger.outcomes.values()]
    const count = (outcome: string) => outcomes.filter((each) => each === outcome).length
    const ended = `completed ${count('completed')}, compensated ${count('compensated')}, parked ${count('parked')}`
    const done = ['inventory', 'payment', 'audit'].map((name) => `${name} ${ledger.done(name)}`).join(', ')
    const kills = this.#killer === undefined ? '' : `, kills ${this.#killer.records.length}`
    const total = this.#input.orders.length
    const inFlight = ledger.inFlight('order-desk')
    return `orders ${outcomes.length}/${total}: ${ended}, in flight ${inFlight}; ${done}${kills}`
  }
}
