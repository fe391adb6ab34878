#!/bin/bash
# BOOTSTRAP_SERVERS, GROUP_ID and the three topics are configured as in the
# official image. Each CONNECT_… variable sets a property.
set -euo pipefail
[ "$1" = start ] || exec "$@"
export CONNECT_BOOTSTRAP_SERVERS=${BOOTSTRAP_SERVERS:?is not set}
export CONNECT_GROUP_ID=${GROUP_ID:?is not set}
export CONNECT_CONFIG_STORAGE_TOPIC=${CONFIG_STORAGE_TOPIC:?is not set}
export CONNECT_OFFSET_STORAGE_TOPIC=${OFFSET_STORAGE_TOPIC:?is not set}
export CONNECT_STATUS_STORAGE_TOPIC=${STATUS_STORAGE_TOPIC:-connect-status}
export CONNECT_REST_ADVERTISED_HOST_NAME=${ADVERTISED_HOST_NAME:-$(hostname -i)}
export CONNECT_REST_ADVERTISED_PORT=${ADVERTISED_PORT:-8083}
export CONNECT_KEY_CONVERTER=${KEY_CONVERTER:-org.apache.kafka.connect.json.JsonConverter}
export CONNECT_VALUE_CONVERTER=${VALUE_CONVERTER:-org.apache.kafka.connect.json.JsonConverter}
export CONNECT_TASK_SHUTDOWN_GRACEFUL_TIMEOUT_MS=${SHUTDOWN_TIMEOUT:-10000}
export CONNECT_OFFSET_FLUSH_INTERVAL_MS=${OFFSET_FLUSH_INTERVAL_MS:-60000}
properties=/kafka/config/connect-distributed.properties
env | sed -n 's/^CONNECT_//p' | while IFS='=' read -r name value; do
    name=$(printf %s "$name" | tr '[:upper:]' '[:lower:]' | tr _ .)
    printf '%s=%s\n' "$name" "$value"
done >"$properties"
exec java ${HEAP_OPTS:--Xmx1G} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/kafka/libs/*' \
    -Dlog4j2.configurationFile=/kafka/log4j2.xml org.apache.kafka.connect.cli.ConnectDistributed "$properties"
