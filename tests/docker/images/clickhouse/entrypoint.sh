#!/bin/sh
# CLICKHOUSE_USER and CLICKHOUSE_PASSWORD define the only user.
set -eu
chown clickhouse: /var/lib/clickhouse
export CLICKHOUSE_PASSWORD="${CLICKHOUSE_PASSWORD:-}" PYTHONUNBUFFERED=1 PYTHONPATH=/usr/local/lib/python3.11/dist-packages
exec setpriv --reuid=clickhouse --regid=clickhouse --clear-groups \
    python3 /usr/local/lib/chdb_front.py --listen 0.0.0.0:8123 --path /var/lib/clickhouse/chdb \
    --user "${CLICKHOUSE_USER:-default}" --password-env CLICKHOUSE_PASSWORD
