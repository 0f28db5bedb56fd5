import type { ServiceRow, ServiceUse, Totals } from './ledger.ts'

/** Folds the uses of a run into one row a service and backend; what was missing gets a `NOT RUN` row of its own. */
export function serviceRows(uses: readonly ServiceUse[], totals: Totals | undefined): ServiceRow[] {
  const groups = new Map<string, ServiceUse[]>()
  for (const use of uses) {
    const key = [use.service, use.backend, use.version, use.missing ?? use.insteadOf ?? ''].join('\n')
    groups.set(key, [...(groups.get(key) ?? []), use])
  }
  return [...groups.values()]
    .map((group) => row(group, totals))
    .sort((a, b) => (`${a.service} ${a.backend}` < `${b.service} ${b.backend}` ? -1 : 1))
}

function row(group: readonly ServiceUse[], totals: Totals | undefined): ServiceRow {
  const first = group[0]!
  const missing = first.missing !== undefined
  const starts = group.map((use) => use.startMs).sort((a, b) => a - b)
  return {
    service: first.service,
    status: missing ? 'NOT RUN' : 'ran',
    backend: first.backend,
    version: first.version,
    startMs: missing ? null : Math.round(starts[Math.floor(starts.length / 2)]!),
    tests: missing ? 0 : testsRun(group, totals),
    reason: first.missing ?? first.insteadOf ?? '',
    install: first.install ?? '',
  }
}

function testsRun(group: readonly ServiceUse[], totals: Totals | undefined): number {
  const wholeFiles = new Set(group.filter((use) => use.test === undefined).map((use) => use.file))
  const single = new Set(
    group
      .filter((use) => use.test !== undefined && !wholeFiles.has(use.file))
      .map((use) => `${use.file}\n${use.test}`),
  )
  let count = single.size
  for (const file of wholeFiles) count += totals?.ranByFile[file] ?? 0
  return count
}

/** The closing table. `NOT RUN` rows say why, and the command that installs what was missing. */
export function tableLines(rows: readonly ServiceRow[]): string[] {
  if (rows.length === 0) return ['', 'Services: none was asked for.']
  const header = ['service', 'status', 'backend', 'version', 'start ms', 'tests', 'why', 'install with']
  const cells = rows.map((each) => [
    each.service,
    each.status,
    each.backend,
    each.version,
    each.startMs === null ? '' : String(each.startMs),
    String(each.tests),
    each.reason,
    each.install,
  ])
  const widths = header.map((title, column) =>
    Math.max(title.length, ...cells.map((line) => line[column]!.length)),
  )
  const format = (line: string[]) =>
    line
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd()
  return ['', format(header), format(widths.map((width) => '-'.repeat(width))), ...cells.map(format), '']
}

/** Every test that was skipped, by name and reason. */
export function skippedLines(totals: Totals | undefined): string[] {
  if (totals === undefined || totals.skipped.length === 0) return []
  return [
    'Tests that did NOT RUN:',
    ...totals.skipped.map((each) => `  ${each.file} > ${each.test}: ${each.note}`),
    '',
  ]
}
