import { setFlagsFromString } from 'node:v8'

const LOOK_MS = 1_000
/** Of one core: below, nothing is going on but the clock's ticks. */
const IDLE_SHARE = 0.05
const IDLE_LOOKS = 3
/** The first V8 that knows the mode: Node 24 has it, Node 22 complains of an unknown flag. */
const V8_MIN = 13.6

/**
 * Gives memory back whenever this process is idle, from now on. V8 would keep the garbage of a burst for as long as nothing
 * is allocated: some hundred megabytes, for good. In its memory saver mode it collects them within seconds, in small steps;
 * but whoever is busy in that mode takes twice as long. So it is on while the process is idle, and no longer. An older V8
 * keeps what it has.
 */
export function saveMemoryWhenIdle(): void {
  if (Number.parseFloat(process.versions.v8) < V8_MIN) return
  let idleLooks = 0
  let before = process.cpuUsage()
  const look = (): void => {
    const { user, system } = process.cpuUsage(before)
    before = process.cpuUsage()
    if (user + system < IDLE_SHARE * LOOK_MS * 1_000) {
      idleLooks += 1
      if (idleLooks === IDLE_LOOKS) setFlagsFromString('--memory-saver-mode')
    } else {
      if (idleLooks >= IDLE_LOOKS) setFlagsFromString('--no-memory-saver-mode')
      idleLooks = 0
    }
  }
  setInterval(look, LOOK_MS).unref()
}
