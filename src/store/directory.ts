/** The port behind which names are kept: compare-and-set entries, few and small. */

/** An entry; `version` starts at 1 and grows by 1 with each write. */
export interface DirectoryEntry {
  readonly name: string
  readonly version: number
  readonly value: Uint8Array
}

/** A store of names: nodes, leases, namespaces, definition hashes, and every checker, participant and destination ever registered. */
export interface Directory {
  /** The entry of this name. */
  get(name: string): Promise<DirectoryEntry | undefined>
  /** Entries whose names start with `prefix`, by name. */
  list(prefix: string): Promise<readonly DirectoryEntry[]>
  /**
   * Writes the entry if its version is still `expected` (0: there must be none), durably. Returns the new version, or
   * undefined if somebody else was faster. A rejection leaves the outcome unknown: read, then decide.
   */
  compareAndSet(name: string, expected: number, value: Uint8Array): Promise<number | undefined>
  /**
   * Takes the entry out if its version is still `expected`, durably; false if it is another one's by now, or gone. A later
   * entry of this name begins at version 1 again: who still has a version of the earlier one must not write by it.
   */
  remove(name: string, expected: number): Promise<boolean>
}
