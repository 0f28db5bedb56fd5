import type { Directory } from './directory.ts'
import type { ImageStore } from './images.ts'
import type { LogStore } from './log.ts'

/** The three ports, implemented on one database. */
export interface Store {
  readonly log: LogStore
  readonly images: ImageStore
  readonly directory: Directory
  /** Closes it in good order; what was answered `done` stays. */
  close(): Promise<void>
}
