/** The terminal: lines that stay, and below them one line of progress that is rewritten. */
const everyMsOnTerminal = 200
const everyMsElsewhere = 3_000

/** Prints lines and a progress line; away from a terminal, the progress is a line every three seconds. */
export class Screen {
  readonly #out: NodeJS.WriteStream
  #progress: (() => string) | undefined
  #timer: NodeJS.Timeout | undefined
  #width = 0

  constructor(out: NodeJS.WriteStream) {
    this.#out = out
  }

  print(line = ''): void {
    this.#clear()
    this.#out.write(`${line}\n`)
    if (this.#out.isTTY) this.#draw()
  }

  /** Shows what `progress` says, until `endProgress`. */
  startProgress(progress: () => string): void {
    this.#progress = progress
    this.#timer = setInterval(() => this.#draw(), this.#out.isTTY ? everyMsOnTerminal : everyMsElsewhere)
  }

  /** Leaves the last state of the progress standing. */
  endProgress(): void {
    if (this.#progress === undefined) return
    clearInterval(this.#timer)
    const last = this.#progress()
    this.#progress = undefined
    this.print(last)
  }

  #draw(): void {
    if (this.#progress === undefined) return
    const text = this.#progress()
    if (!this.#out.isTTY) {
      this.#out.write(`${text}\n`)
      return
    }
    this.#clear()
    // A line that wraps can't be rewritten.
    const cut = text.slice(0, Math.max(20, (this.#out.columns || 80) - 1))
    this.#out.write(cut)
    this.#width = cut.length
  }

  #clear(): void {
    if (this.#out.isTTY && this.#width > 0) this.#out.write('\r\x1b[K')
    this.#width = 0
  }
}

/** Rows as aligned columns: the first to the left, the others to the right. */
export function tableLines(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
}
