/**
 * Preloaded (`node --import`) into each process that the shop starts: ends it when the main process ends, however
 * that ends. The main process holds the other side of standard input, and the kernel closes it for a killed one.
 */
const input = process.stdin as NodeJS.ReadStream & { unref?(): void }
for (const event of ['end', 'close', 'error'] as const) input.once(event, () => process.exit(1))
input.resume()
// Waiting for the parent's end is no reason to live.
input.unref?.()
