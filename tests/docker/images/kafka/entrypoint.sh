#!/bin/bash
# Each KAFKA_… variable sets a property. An empty log folder is formatted.
set -euo pipefail
properties=/opt/kafka/config/server.properties
env | sed -n 's/^KAFKA_//p' | grep -v '^HEAP_OPTS=' | while IFS='=' read -r name value; do
    name=$(printf %s "$name" | tr '[:upper:]' '[:lower:]' | tr _ .)
    printf '%s=%s\n' "$name" "$value"
done >"$properties"
java() {
    command java ${KAFKA_HEAP_OPTS:--Xmx1G} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' \
        -Dlog4j2.configurationFile=/opt/kafka/log4j2.xml "$@"
}
if [ ! -e "$KAFKA_LOG_DIRS/meta.properties" ]; then
    java kafka.tools.StorageTool format -t "${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}" -c "$properties" --ignore-formatted
fi
exec java ${KAFKA_HEAP_OPTS:--Xmx1G} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' \
    -Dlog4j2.configurationFile=/opt/kafka/log4j2.xml kafka.Kafka "$properties"
