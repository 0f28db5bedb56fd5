#!/bin/sh
# Takes redis-server's own arguments, as the public image does.
set -eu
[ "${1:-}" = redis-server ] || exec "$@"
shift
chown redis:redis /data
exec setpriv --reuid=redis --regid=redis --init-groups redis-server --protected-mode no --bind 0.0.0.0 --dir /data "$@"
