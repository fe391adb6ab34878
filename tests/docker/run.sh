#!/usr/bin/env bash
# Tests the stack in containers, from the first pull to the reset.
#
#   tests/docker/run.sh             substitute images, from a local registry
#   tests/docker/run.sh official    the images of the container definitions
#
# Uses the running container engine. If there is none, root on Debian or Ubuntu
# installs one and runs it during the tests.
#
# Exits with 0 only if the tests ran and passed. On a developer's machine that
# cannot run them it exits with 77 (not run). In CI, with the official images,
# or if missing programs could be installed, that is a failure (1).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
images=${1:-stand-in}
work=$(mktemp -d "${TMPDIR:-/tmp}/fanout-docker-test.XXXXXX")
chmod 0755 "$work"
engine='' registry=''

finish() {
    code=$?
    trap - EXIT
    for pid in $registry $engine; do
        kill "$pid" 2>/dev/null || continue
        for _ in {1..100}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.2
        done
    done
    [ -z "${KEEP:-}" ] && rm -rf --one-file-system "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

engine_version() { docker version --format '{{.Server.Version}}' 2>/dev/null; }
has() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
can_install() { is_root && has apt-get; }

# Succeeds if it is a failure that this machine cannot run the tests.
required() { [ -n "${CI:-}" ] || [ "$images" = official ] || can_install; }

not_run() { # <reason>
    if required; then
        printf 'test-docker: FAILED, cannot run the tests: %s\n' "$*" >&2
        exit 1
    fi
    printf 'test-docker: NOT RUN: %s\n' "$*" >&2
    exit 77
}

install() { # <program> <package>
    if has "$1"; then return 0; fi
    can_install || return 1
    export DEBIAN_FRONTEND=noninteractive
    if [ -z "${updated:-}" ]; then apt-get -qq update >"$work/apt.log" 2>&1 && updated=yes; fi
    apt-get -qq install -y --no-install-recommends "$2" >>"$work/apt.log" 2>&1
}

start_engine() {
    is_root || not_run 'no container engine is running, and starting one requires root'
    install dockerd docker.io || not_run 'no container engine is running, and none can be installed'
    unset DOCKER_CONTEXT
    export DOCKER_HOST=unix://$work/docker.sock
    dockerd --host "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/exec" \
        --pidfile "$work/docker.pid" >"$work/dockerd.log" 2>&1 &
    engine=$!
    for _ in {1..150}; do
        if engine_version >/dev/null; then return; fi
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.2
    done
    not_run "cannot start a container engine: $(tail -n 1 "$work/dockerd.log")"
}

# Starts a registry on the first free port from 5000.
start_registry() {
    install docker-registry docker-registry || not_run 'docker-registry, which serves the substitute images, is missing'
    install debootstrap debootstrap || not_run 'debootstrap, which creates the substitute images, is missing'
    port=5000
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    mkdir "$work/registry"
    cat >"$work/registry.yml" <<END
version: 0.1
storage:
  filesystem: {rootdirectory: $work/registry}
http: {addr: 127.0.0.1:$port}
END
    docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    registry=$!
    export FANOUT_TEST_DOCKER=localhost:$port
}

has docker || install docker docker.io || not_run 'the docker command is missing'
engine_version >/dev/null || start_engine
printf 'test-docker: engine %s\n' "$(engine_version)" >&2
if [ "$images" = official ]; then
    export FANOUT_TEST_DOCKER=official
else
    is_root || not_run 'creating the substitute images requires root'
    start_registry
    tests/docker/images.sh "$FANOUT_TEST_DOCKER" "$work/images"
    # Removes the local images, so that they must be pulled.
    docker images --format '{{.Repository}}:{{.Tag}}' | grep "^$FANOUT_TEST_DOCKER/" |
        xargs -r docker rmi >/dev/null
    docker rmi fanout-test/base >/dev/null
fi
# With the feature of `make test`, so that both have one build.
cargo test --locked --features crash-points --test docker -- --nocapture
