#!/bin/sh
# Checks for the programs that fanout needs to build and that its servers need
# to run, and reports all missing ones together. As root on Debian or Ubuntu it
# installs them; elsewhere it prints the command to run and exits with 3.
#
#   sh stack/native/preflight.sh           for `make build` and `make demo`
#   sh stack/native/preflight.sh lint      also rustfmt and clippy
#   sh stack/native/preflight.sh test      also the programs that the tests call
#
# fanout itself never calls a system's package manager. Kafka, Connect, Debezium
# and ClickHouse's engine are not system packages: `fanout up` downloads them
# into the user's cache.

set -u
# The folder where rustup installs cargo, for shells that were opened before. It
# comes first, as rustup does it, because the system's Rust may be too old.
PATH=${HOME:-/root}/.cargo/bin:$PATH

min_rust=1.95

# --- detecting missing programs ----------------------------------------------

missing=''      # one line per missing program
packages=''     # Debian packages to install
rust_command='' # command that installs or updates Rust
components=''   # components of the Rust toolchain to install

report_missing() { # <program> <problem> <purpose> [<package>…]
    missing="$missing    $1 $2 ($3)
"
    shift 3
    for package; do
        case " $packages " in
            *" $package "*) ;;
            *) packages="${packages:+$packages }$package" ;;
        esac
    done
}

has() { command -v "$1" >/dev/null 2>&1; }

# Succeeds if version $1 is $2 or newer; both are major or major.minor.
is_at_least() {
    major=${1%%.*} minor=0
    case $1 in *.*) minor=${1#*.} minor=${minor%%[!0-9]*} ;; esac
    least_minor=0
    case $2 in *.*) least_minor=${2#*.} ;; esac
    [ "$major" -gt "${2%%.*}" ] 2>/dev/null ||
        { [ "$major" -eq "${2%%.*}" ] && [ "$minor" -ge "$least_minor" ]; } 2>/dev/null
}

# Prints the first version in stdin as major.minor: 15.20, 17.0, 1.95.
first_version() {
    sed -n 's/^[^0-9]*\([0-9][0-9]*\(\.[0-9][0-9]*\)\{0,1\}\).*/\1/p' | sed -n 1p
}

check_rust() {
    version=
    if has cargo && has rustc; then version=$(rustc --version 2>/dev/null | first_version); fi
    if [ -z "$version" ]; then
        report_missing rust 'is missing' "fanout is built with $min_rust or newer"
    elif ! is_at_least "$version" "$min_rust"; then
        report_missing rust "has version $version" "fanout is built with $min_rust or newer"
    else
        return
    fi
    if has rustup; then
        rust_command='rustup default stable && rustup update stable'
    else
        has curl || report_missing curl 'is missing' 'installing rust' curl ca-certificates
        rust_command="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
    fi
}

check_components() {
    [ -z "$rust_command" ] || return 0
    cargo fmt --version >/dev/null 2>&1 || components='rustfmt'
    cargo clippy --version >/dev/null 2>&1 || components="${components:+$components }clippy"
    for component in $components; do
        report_missing "$component" 'is missing' 'make lint'
    done
}

check_build_tools() {
    for tool in cc c++; do
        has "$tool" || report_missing "$tool" 'is missing' 'building librdkafka' g++
    done
    has make || report_missing make 'is missing' 'building librdkafka' make
}

check_java() {
    # The default of Debian 11 and of Ubuntu up to 22.04 is older.
    package=default-jre-headless
    case $system in
        debian:11* | ubuntu:18.* | ubuntu:20.* | ubuntu:22.*) package=openjdk-17-jre-headless ;;
    esac
    if ! has java; then
        report_missing java 'is missing' 'kafka, connect: 17 or newer' "$package"
        return
    fi
    version=$(java -version 2>&1 | sed -n 's/.* version "\([^"]*\)".*/\1/p')
    is_at_least "${version:-0}" 17 ||
        report_missing java "has version ${version:-unknown}" 'kafka, connect: 17 or newer' "$package"
}

check_python() {
    if ! has python3; then
        report_missing python3 'is missing' "clickhouse's engine: 3.9 or newer" python3 python3-venv
    elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        report_missing python3 'is older than 3.9' "clickhouse's engine" python3 python3-venv
    elif ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        report_missing python3 'cannot create virtual environments' "clickhouse's engine" python3-venv
    fi
}

newest_postgres() { # in the folders of Debian and Fedora
    for postgres in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres; do
        if [ -x "$postgres" ]; then
            printf '%s %s\n' "$(printf %s "$postgres" | tr -cd 0-9)" "$postgres"
        fi
    done | sort -rn | sed -n '1s/^[^ ]* //p'
}

check_postgres() {
    found=$(command -v postgres) || found=$(newest_postgres)
    if [ -z "$found" ]; then
        report_missing postgres 'is missing' 'the source database: 14 or newer' postgresql
        return
    fi
    version=$("$found" --version 2>/dev/null | first_version)
    is_at_least "${version:-0}" 14 ||
        report_missing postgres "has version ${version:-unknown}" 'the source database: 14 or newer' postgresql
}

check_redis() {
    if ! has redis-server; then
        report_missing redis-server 'is missing' "the board's store: 6 or newer" redis-server
        return
    fi
    version=$(redis-server --version 2>/dev/null | first_version)
    is_at_least "${version:-0}" 6 ||
        report_missing redis-server "has version ${version:-unknown}" "the board's store: 6 or newer" redis-server
}

check_curl() {
    case " $packages " in *' curl '*) return ;; esac
    has curl || report_missing curl 'is missing' 'the tests' curl
}

check_all() {
    missing='' packages='' rust_command='' components=''
    check_rust
    [ "$1" = run ] || check_components
    [ "$1" != test ] || check_curl
    check_build_tools
    check_java
    has mvn || report_missing mvn 'is missing' 'fetching kafka, connect and debezium' maven
    check_python
    check_postgres
    check_redis
}

# --- installing missing programs ---------------------------------------------

# Prints the command that installs everything.
remedy() {
    line=
    if [ -n "$packages" ]; then
        as_root=
        [ "$(id -u)" = 0 ] || as_root='sudo '
        line="${as_root}apt-get update && ${as_root}apt-get install -y --no-install-recommends $packages"
    fi
    [ -z "$rust_command" ] || line="${line:+$line && }$rust_command"
    [ -z "$components" ] || line="${line:+$line && }rustup component add $components"
    printf '%s\n' "$line"
}

give_up() { # <reason>
    printf '\npreflight: %s. Run this command, then repeat the make command:\n\n    %s\n' "$1" "$(remedy)"
    if [ -n "$packages" ] && ! has apt-get; then
        printf '\n(These are the package names of Debian; they may differ on this system.)\n'
    fi
    exit 3
}

# Runs a command and shows its output only if it fails.
quietly() {
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 20 "$log"
        give_up "this command failed: $* (complete output in $log)"
    fi
}

# A machine that has just started may be updating its package lists, and apt-get
# does not wait for that lock. If a package source is unreachable, the others are
# still used.
update_lists() {
    echo 'preflight: apt-get update'
    tries=60
    until LC_ALL=C apt-get update >"$log" 2>&1 </dev/null; do
        tries=$((tries - 1))
        if [ "$tries" -gt 0 ] && grep -Eq 'Could not get lock|Unable to lock' "$log"; then
            [ "$tries" -ne 59 ] || echo 'preflight: waiting for another process that updates the package lists'
            sleep 5
            continue
        fi
        tail -n 5 "$log"
        echo 'preflight: apt-get update failed; continuing with the current package lists'
        return
    done
}

install_packages() {
    log=$(mktemp "${TMPDIR:-/tmp}/fanout-preflight.XXXXXX") || exit 3
    export DEBIAN_FRONTEND=noninteractive
    update_lists
    echo "preflight: apt-get install --no-install-recommends $packages"
    # shellcheck disable=SC2086  # a list of words
    quietly apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $packages
    rm -f "$log"
    case " $packages " in
        *' postgresql '* | *' redis-server '*)
            echo 'preflight: Debian starts its own servers with these packages. fanout does not use them,'
            echo '           and make demo uses other ports if they occupy the default ones.'
            ;;
    esac
}

# All output is for people.
exec >&2
# shellcheck source=/dev/null
system=$(. /etc/os-release 2>/dev/null && printf '%s:%s' "${ID:-}" "${VERSION_ID:-}")
scope=${1:-run}

check_all "$scope"
[ -n "$missing" ] || exit 0

printf 'preflight: missing on this machine:\n%s' "$missing"

if [ -n "$packages" ]; then
    [ "$(id -u)" = 0 ] || give_up 'installing packages requires root'
    case $system in
        debian:* | ubuntu:*) install_packages ;;
        *) give_up 'this is neither Debian nor Ubuntu' ;;
    esac
fi
if [ -n "$components" ]; then
    echo "preflight: rustup component add $components"
    # shellcheck disable=SC2086  # a list of words
    rustup component add $components || give_up 'rustup component add failed'
fi

check_all "$scope"
[ -z "$rust_command" ] || [ -n "$packages" ] || give_up 'preflight does not install rust'
[ -z "$missing" ] || {
    printf 'preflight: still missing:\n%s' "$missing"
    give_up 'the packages of this system are not sufficient'
}
echo 'preflight: nothing is missing any longer'
