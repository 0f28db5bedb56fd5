#!/bin/sh
# Honours POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, as the public image does.
set -eu
[ "${1:-}" = postgres ] || exec "$@"
user="${POSTGRES_USER:-postgres}"
database="${POSTGRES_DB:-$user}"
password="${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
mkdir -p "$PGDATA" /var/run/postgresql
chown postgres:postgres "$PGDATA" /var/run/postgresql
chmod 700 "$PGDATA"
as='setpriv --reuid=postgres --regid=postgres --init-groups'
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  (umask 077 && printf '%s\n' "$password" >/run/password)
  chown postgres /run/password
  $as initdb -D "$PGDATA" -U "$user" --pwfile=/run/password --auth-local=trust --auth-host=scram-sha-256 \
    -E UTF8 --locale=C.UTF-8 >/dev/null
  rm -f /run/password
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  [ "$database" = postgres ] ||
    printf 'CREATE DATABASE "%s";\n' "$database" | $as postgres --single -j -D "$PGDATA" postgres >/dev/null
fi
exec $as "$@" -c listen_addresses='*'
