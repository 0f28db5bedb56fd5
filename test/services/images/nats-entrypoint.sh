#!/bin/sh
# Takes `nats-server` with its arguments, or the arguments alone, as the public image does.
set -eu
case "${1:-}" in -*) set -- nats-server "$@" ;; esac
exec "$@"
