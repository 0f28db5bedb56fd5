import type { Log } from '../coordinator.ts'

/** Writes log lines to standard error: text for people, or an object of JSON a line for whatever collects them. */
export function openLog(format: 'text' | 'json'): Log {
  return (level, message) => {
    const time = new Date().toISOString()
    const line =
      format === 'json' ? JSON.stringify({ time, level, message }) : `${time} ${level.padEnd(5)} ${message}`
    process.stderr.write(`${line}\n`)
  }
}
