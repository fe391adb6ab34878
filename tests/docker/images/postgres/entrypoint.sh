#!/bin/sh
# The first start creates the user and the database of POSTGRES_USER,
# POSTGRES_PASSWORD and POSTGRES_DB. The arguments are passed to the server.
set -eu
if [ "$(id -u)" = 0 ]; then
    chown postgres: "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    printf '%s\n' "${POSTGRES_PASSWORD:?is not set}" >/tmp/password
    initdb -D "$PGDATA" -U "$user" --pwfile=/tmp/password --auth=scram-sha-256 -E UTF8 --locale=C
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    # During setup, the server does not listen on the network.
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses= -c unix_socket_directories=/tmp" start
    export PGPASSWORD=$POSTGRES_PASSWORD
    createdb -h /tmp -U "$user" "${POSTGRES_DB:-$user}" 2>/dev/null || true
    for script in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -f "$script" ] || psql -h /tmp -U "$user" -d "${POSTGRES_DB:-$user}" -v ON_ERROR_STOP=1 -q -f "$script"
    done
    unset PGPASSWORD
    pg_ctl -D "$PGDATA" -w -m fast stop
fi
shift
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
