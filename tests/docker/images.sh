#!/usr/bin/env bash
# Builds substitutes for the official images, for machines without access to a
# public registry, and pushes them to the registry $1. They contain the real
# servers (Debian's PostgreSQL and Redis, Apache Kafka, Connect with Debezium,
# chDB) and support the environment variables and commands of the official
# images that fanout uses. Only the console is replaced by a static page.
#
#   tests/docker/images.sh localhost:5000 <working folder>
set -euo pipefail
registry=$1 work=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
mkdir -p "$work"
export DOCKER_BUILDKIT=0

step() { printf 'images: %s\n' "$*" >&2; }

base() {
    if docker image inspect fanout-test/base >/dev/null 2>&1; then return; fi
    step 'debootstrap of the base'
    local folder=$work/base
    rm -rf "$folder"
    debootstrap --variant=minbase \
        --include=postgresql-15,redis-server,openjdk-17-jre-headless,python3-minimal,python3,curl,wget \
        bookworm "$folder" >"$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log" >&2; return 1; }
    # No server needs these files, which are half of the image.
    rm -rf "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/* "$folder"/usr/share/{doc,man,locale,icons} \
        "$folder"/usr/lib/x86_64-linux-gnu/libLLVM* "$folder"/usr/lib/postgresql/15/lib/{bitcode,llvmjit*} \
        "$folder"/var/lib/postgresql/15
    tar -C "$folder" -c . | docker import - fanout-test/base >/dev/null
    rm -rf "$folder"
}

# Uses the jars in fanout's cache if `fanout up` has installed them natively.
jars() { # <pom> <folder in the cache> <target folder>
    local cached=${FANOUT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fanout}/native/$2
    mkdir -p "$3"
    if [ -d "$cached" ]; then
        cp "$cached"/*.jar "$3"
    else
        step "maven: $1"
        mvn -q -B -C -f "$root/stack/native/$1/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$3"
    fi
    (cd "$3" && sha256sum --strict --quiet -c "$root/stack/native/$1/checksums.sha256")
}

packages() { # <target folder>
    step 'pip: chdb'
    python3 -m pip download -q --no-deps --python-version 3.11 --only-binary=:all: --require-hashes \
        -r "$root/stack/native/requirements.txt" -d "$work/wheels"
    mkdir -p "$1"
    for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$1"; done
}

image() { # <name and tag> <folder>
    step "build $1"
    if ! docker build -q -t "$registry/$1" "$2" >"$work/build.log" 2>&1; then
        tail -n 20 "$work/build.log" >&2
        return 1
    fi
}

context() { # <name>
    rm -rf "${work:?}/$1"
    cp -r "$here/images/$1" "$work/$1"
    printf '%s\n' "$work/$1"
}

base
folder=$(context postgres) && image postgres:17 "$folder"
folder=$(context redis) && image redis:8.2.2 "$folder"
folder=$(context console) && image redpandadata/console:v3.7.2 "$folder"
kafka=$(context kafka)
jars kafka kafka-4.3.0 "$kafka/libs"
cp "$root/stack/native/log4j2.xml" "$kafka"
image apache/kafka:4.3.1 "$kafka"
folder=$(context connect)
cp -r "$kafka/libs" "$kafka/log4j2.xml" "$folder"
jars debezium debezium-postgres-3.6.3.Final/jars "$folder/plugin"
image debezium/connect:3.6.0.Final "$folder"
folder=$(context clickhouse)
packages "$folder/packages"
cp "$root/stack/native/chdb_front.py" "$root/stack/native/chdb_guard.py" "$folder"
image clickhouse/clickhouse-server:25.8 "$folder"

step "push to $registry"
for name in postgres:17 redis:8.2.2 redpandadata/console:v3.7.2 apache/kafka:4.3.1 debezium/connect:3.6.0.Final \
    clickhouse/clickhouse-server:25.8; do
    docker push -q "$registry/$name" >/dev/null
done
step 'done'
