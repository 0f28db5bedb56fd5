#!/bin/sh
# Honours RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS, as the public image does.
set -eu
[ "${1:-}" = rabbitmq-server ] || exec "$@"
cat >/etc/rabbitmq/rabbitmq.conf <<CONF
listeners.tcp.default = 0.0.0.0:5672
management.tcp.ip = 0.0.0.0
management.tcp.port = 15672
loopback_users = none
default_user = ${RABBITMQ_DEFAULT_USER:-guest}
default_pass = ${RABBITMQ_DEFAULT_PASS:-guest}
CONF
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq
# A broker that spins while it waits takes the processor from whoever it shares it with.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="${RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS:-} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server
