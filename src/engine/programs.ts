import { EscrowError } from '../core/errors.ts'
import type { SagaHead } from '../core/saga/image.ts'
import type { SagaProgram } from '../core/saga/program.ts'
import type { Directory } from '../store/directory.ts'

/** What definitions need of a coordinator. */
export interface ProgramsOptions {
  /** Those that are configured, several versions side by side. */
  readonly programs: readonly SagaProgram[]
  /** Compiles a routing slip. Throws `invalidArgument`, `tooLarge`, `invalidSaga`. */
  readonly compileSlip: (slip: string) => SagaProgram
  /** Told once of each definition that sagas have and nobody gave. */
  readonly missing: (saga: string, version: number) => void
}

/** Compiled slips that are kept; those of sagas that run are compiled again where they were dropped. */
const SLIPS_MAX = 1_000
const WRITES_MAX = 100

/** The definitions that this coordinator drives sagas by. */
export class Programs {
  readonly #options: ProgramsOptions
  /** By name and version: no string is put together where every decision asks. */
  readonly #byName = new Map<string, Map<number, SagaProgram>>()
  readonly #newest = new Map<string, SagaProgram>()
  readonly #slips = new Map<string, SagaProgram>()
  readonly #missing = new Set<string>()

  /** Throws `invalidArgument` for two definitions of the same name and version. */
  constructor(options: ProgramsOptions) {
    this.#options = options
    for (const program of options.programs) {
      const name = nameOf(program.name, program.version)
      const versions = this.#byName.get(program.name) ?? new Map<number, SagaProgram>()
      if (versions.has(program.version))
        throw new EscrowError(
          'invalidArgument',
          `sagas: ${name} is defined twice: give one of them another version`,
        )
      this.#byName.set(program.name, versions.set(program.version, program))
      const newest = this.#newest.get(program.name)
      if (newest === undefined || newest.version < program.version) this.#newest.set(program.name, program)
    }
  }

  /**
   * Remembers what each version was, durably. Rejects with `definitionChanged` for one that was another definition before:
   * sagas that began with it may still run.
   */
  async register(directory: Directory): Promise<void> {
    for (const versions of this.#byName.values()) {
      for (const { name, version, hash } of versions.values()) await register(directory, name, version, hash)
    }
  }

  /** What a start asks for; version 0 is the newest. Throws `unknownSaga`, `unknownVersion`. */
  named(saga: string, version: number): SagaProgram {
    const program = version === 0 ? this.#newest.get(saga) : this.#byName.get(saga)?.get(version)
    if (program !== undefined) return program
    throw this.#newest.has(saga)
      ? new EscrowError('unknownVersion', `saga ${JSON.stringify(saga)} has no version ${version} here`)
      : new EscrowError('unknownSaga', `saga ${JSON.stringify(saga)} is not defined here`)
  }

  /** The definition of this name and version; undefined where it isn't here. */
  at(saga: string, version: number): SagaProgram | undefined {
    return this.#byName.get(saga)?.get(version)
  }

  /** A routing slip's. Throws `invalidArgument`, `tooLarge`, `invalidSaga`. */
  slip(text: string): SagaProgram {
    const known = this.#slips.get(text)
    const program = known ?? this.#options.compileSlip(text)
    const [oldest] = this.#slips.keys()
    if (known !== undefined) this.#slips.delete(text)
    else if (this.#slips.size >= SLIPS_MAX && oldest !== undefined) this.#slips.delete(oldest)
    // The last one used stands last.
    this.#slips.set(text, program)
    return program
  }

  /** What a saga began with; undefined where it isn't here, which holds the saga. */
  of({ saga, version, hash, slip }: SagaHead): SagaProgram | undefined {
    const program = slip === '' ? this.#byName.get(saga)?.get(version) : this.#ofSlip(slip)
    if (program?.hash === hash) return program
    const name = nameOf(slip === '' ? saga : 'slip', version)
    if (!this.#missing.has(name)) {
      this.#missing.add(name)
      this.#options.missing(slip === '' ? saga : 'slip', version)
    }
    return undefined
  }

  /** One that an earlier release took, and this one doesn't, is as good as missing. */
  #ofSlip(slip: string): SagaProgram | undefined {
    try {
      return this.slip(slip)
    } catch {
      return undefined
    }
  }
}

const nameOf = (saga: string, version: number): string => `${saga} version ${version}`

async function register(directory: Directory, saga: string, version: number, hash: string): Promise<void> {
  const name = `saga/${saga}/${version}`
  for (let attempt = 1; attempt <= WRITES_MAX; attempt++) {
    const entry = await directory.get(name)
    if (entry === undefined) {
      if ((await directory.compareAndSet(name, 0, Buffer.from(hash))) !== undefined) return
      continue
    }
    const known = Buffer.from(entry.value).toString()
    if (known === hash) return
    throw new EscrowError(
      'definitionChanged',
      `sagas: ${nameOf(saga, version)} is another definition than the one that this store knows: give it a version of its own`,
      { details: { saga, version: String(version), known, given: hash } },
    )
  }
  throw new EscrowError('storeUnavailable', `the entry ${name} is written by others all the time`)
}
