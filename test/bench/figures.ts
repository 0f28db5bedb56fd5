/** One line of the table, and of the JSON. */
export interface Row {
  readonly name: string
  readonly unit: string
  /** The median of the runs. */
  readonly value: number
  /** What the value is held against: the bare loop of the same runs, or a bound. Absent for what is only reported. */
  readonly limit?: number | undefined
  /** The median of each run's value by the limit of the same run. */
  readonly ratio?: number | undefined
  /** (max - min) / median over the runs. */
  readonly spread: number
  /** In words, what the value should be. */
  readonly wanted?: string | undefined
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** (max - min) / median; 0 for a single value. */
export function spread(values: readonly number[]): number {
  const middle = median(values)
  return middle === 0 ? 0 : (Math.max(...values) - Math.min(...values)) / middle
}

/** The value below which this share of a sorted list lies. */
export function percentile(sorted: ArrayLike<number>, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

/** A row out of one figure a run, and for each run what it is held against. */
export function row(
  name: string,
  unit: string,
  values: readonly number[],
  about: { readonly limits?: readonly number[]; readonly wanted?: string } = {},
): Row {
  const { limits, wanted } = about
  return {
    name,
    unit,
    value: median(values),
    ...(limits === undefined
      ? {}
      : { limit: median(limits), ratio: median(values.map((value, at) => value / limits[at]!)) }),
    spread: spread(values),
    ...(wanted === undefined ? {} : { wanted }),
  }
}

const digits = (value: number): string => {
  const places = Math.abs(value) >= 1_000 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  return value.toLocaleString('en-US', { minimumFractionDigits: places, maximumFractionDigits: places })
}

/** The rows as lines of text, in columns. */
export function tableLines(rows: readonly Row[]): readonly string[] {
  const cells = [
    ['name', 'value', 'unit', 'limit', 'ratio', 'spread', 'wanted'],
    ...rows.map((each) => [
      each.name,
      digits(each.value),
      each.unit,
      each.limit === undefined ? '' : digits(each.limit),
      each.ratio === undefined ? '' : each.ratio.toFixed(2),
      `${Math.round(100 * each.spread)}%`,
      each.wanted ?? '',
    ]),
  ]
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((line) => line[column]!.length)))
  const isText = (column: number) => column === 0 || column === 2 || column === 6
  return cells.map((line) =>
    line
      .map((cell, column) => (isText(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
}
