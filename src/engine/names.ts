import type { Registration } from '../core/api.ts'
import { EscrowError, InvariantViolation } from '../core/errors.ts'
import { type Destination, type Namespace, parseName } from '../core/ids.ts'
import type { SagaProgram } from '../core/saga/program.ts'
import type { Directory } from '../store/directory.ts'
import type { Topics } from './topics.ts'

/** Where a service that listens is called. */
export interface Listener {
  readonly namespace: Namespace
  readonly service: string
  /** Empty: it doesn't listen any more. */
  readonly url: string
  readonly registration: Registration
}

const NAMES_MAX = 1_000
const URL = /^(grpc|http):\/\/[^\s/?#]+$/
const WRITES_MAX = 100

/**
 * Every name of a checker or a handler that was ever registered, durably: a name never registered is refused at the door,
 * a registered one that is away is unknown.
 */
export class Names {
  readonly #directory: Directory
  readonly #namespaces: ReadonlySet<string>
  readonly #topics: Topics
  /** By namespace and name, so that a prepare, which asks for two of them, puts no string together. */
  readonly #checkers = new Map<string, Set<string>>()
  readonly #handlers = new Map<string, Set<string>>()
  readonly #steps = new Map<string, Set<string>>()
  /** Definitions all of whose steps are known, by namespace: a name that is known stays so. */
  readonly #served = new Map<string, WeakSet<SagaProgram>>()

  constructor(directory: Directory, namespaces: readonly string[], topics: Topics) {
    this.#directory = directory
    this.#namespaces = new Set(namespaces)
    this.#topics = topics
  }

  /** Reads every name that there is by now, and where services listen, or did. */
  async load(): Promise<readonly Listener[]> {
    for (const prefix of ['checker/', 'handler/', 'step/']) {
      for (const { name } of await this.#directory.list(prefix)) this.#add(name)
    }
    await this.#topics.load()
    const listeners = await this.#directory.list('listener/')
    return listeners.map(({ value }) => JSON.parse(Buffer.from(value).toString()) as Listener)
  }

  #has(name: string): boolean {
    const { names, namespace, rest } = this.#place(name)
    return names.get(namespace)?.has(rest) ?? false
  }

  #add(name: string): void {
    const { names, namespace, rest } = this.#place(name)
    names.set(namespace, (names.get(namespace) ?? new Set()).add(rest))
  }

  /** Takes a name of the directory apart: its kind, its namespace, and the rest. */
  #place(name: string): { names: Map<string, Set<string>>; namespace: string; rest: string } {
    const [kind = '', namespace = ''] = name.split('/', 2)
    const names = { checker: this.#checkers, handler: this.#handlers, step: this.#steps }[kind]
    if (names === undefined) throw new InvariantViolation(`a name of the kind ${kind}`)
    return { names, namespace, rest: name.slice(kind.length + namespace.length + 2) }
  }

  /** Throws `unknownNamespace`. */
  checkNamespace(namespace: Namespace): void {
    if (this.#namespaces.has(namespace)) return
    throw new EscrowError('unknownNamespace', `namespace ${JSON.stringify(namespace)} is not configured`)
  }

  /** Throws `unknownChecker`. */
  checkChecker(namespace: Namespace, checker: string): void {
    if (this.#checkers.get(namespace)?.has(checker)) return
    throw new EscrowError(
      'unknownChecker',
      `checker ${JSON.stringify(checker)} was never registered in namespace ${namespace}`,
    )
  }

  /** Throws `unknownStep`, `unknownDestination`: whoever serves the steps of a saga must have come once. */
  checkSteps(namespace: Namespace, program: SagaProgram): void {
    const served = this.#served.get(namespace)
    if (served?.has(program)) return
    for (const { service, action, compensation, destination } of program.steps.values()) {
      if (destination !== '') this.checkDestination(namespace, destination as Destination)
      else this.#checkStep(namespace, `${service}/${action}`)
      if (compensation !== undefined)
        this.#checkStep(namespace, `${compensation.service}/${compensation.step}`)
    }
    if (served === undefined) this.#served.set(namespace, new WeakSet([program]))
    else served.add(program)
  }

  #checkStep(namespace: Namespace, step: string): void {
    if (this.#steps.get(namespace)?.has(step)) return
    throw new EscrowError(
      'unknownStep',
      `step ${JSON.stringify(step)} was never registered in namespace ${namespace}`,
    )
  }

  /** Throws `unknownDestination`; with `details.topic` where it is a topic that only has to be registered. */
  checkDestination(namespace: Namespace, destination: Destination): void {
    if (!destination.includes(':')) {
      if (this.#handlers.get(namespace)?.has(destination) === true) return
      const what = `handler ${destination} was never registered in namespace ${namespace}`
      throw new EscrowError('unknownDestination', what)
    }
    if (!this.#topics.isNew(destination)) return
    this.#topics.checkBroker(destination)
    const details = { topic: destination }
    throw new EscrowError('unknownDestination', `${destination} has not been registered yet`, { details })
  }

  /** Makes names known, durably; answers whether any is new. Throws `invalidArgument`, `unknownNamespace`, `storeUnavailable`. */
  async register(
    namespace: Namespace,
    service: string,
    { checkers, handlers, steps = [] }: Registration,
  ): Promise<boolean> {
    this.checkNamespace(namespace)
    parseName('service', service)
    const count = checkers.length + handlers.length + steps.length
    if (count > NAMES_MAX) {
      throw new EscrowError('tooLarge', `${count} names, over the limit of ${NAMES_MAX}`)
    }
    const names = [
      ...checkers.map((checker) => `checker/${namespace}/${parseName('checker', checker)}`),
      ...handlers.map((handler) => `handler/${namespace}/${service}/${parseName('handler', handler)}`),
      ...steps.map((step) => `step/${namespace}/${service}/${parseName('step', step)}`),
    ]
    const missing = names.filter((each) => !this.#has(each))
    for (const name of missing) {
      await this.#directory.compareAndSet(name, 0, Buffer.from(JSON.stringify({ service })))
      // Written by us or by somebody who was faster: known either way.
      this.#add(name)
    }
    return missing.length > 0
  }

  /** Keeps where a service is called, durably. Throws `invalidArgument`, `storeUnavailable`. */
  async listen(listener: Listener): Promise<void> {
    if (listener.url !== '' && !URL.test(listener.url)) {
      throw new EscrowError(
        'invalidArgument',
        `url ${JSON.stringify(listener.url.slice(0, 100))} is not grpc://host:port or http://host:port`,
      )
    }
    await this.register(listener.namespace, listener.service, listener.registration)
    const name = `listener/${listener.namespace}/${listener.service}`
    const value = Buffer.from(JSON.stringify(listener))
    for (let attempt = 1; attempt <= WRITES_MAX; attempt++) {
      const entry = await this.#directory.get(name)
      if ((await this.#directory.compareAndSet(name, entry?.version ?? 0, value)) !== undefined) return
    }
    throw new EscrowError('storeUnavailable', `the entry ${name} is written by others all the time`)
  }
}
