import { type Client, connectivityState } from '@grpc/grpc-js'

/** Follows the channel until it is connected, has failed to connect, or its time is up. */
export function whenConnected(
  channel: ReturnType<Client['getChannel']>,
  deadlineMs: number,
  callback: (isConnected: boolean) => void,
): void {
  const follow = (): void => {
    const state = channel.getConnectivityState(true)
    if (state === connectivityState.READY) return callback(true)
    if (state === connectivityState.TRANSIENT_FAILURE || state === connectivityState.SHUTDOWN)
      return callback(false)
    channel.watchConnectivityState(state, deadlineMs, (error) =>
      error === undefined ? follow() : callback(false),
    )
  }
  // Later than the call in any case.
  queueMicrotask(follow)
}
