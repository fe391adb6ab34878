#!/bin/sh
# Looks for what fanout is built with and what its servers run on, and says at
# once all that is missing. As root on Debian or Ubuntu it installs that;
# elsewhere it prints the one line to type and exits with 3.
#
#   sh stack/native/preflight.sh           what `make build` and `make demo` need
#   sh stack/native/preflight.sh lint      rustfmt and clippy as well
#   sh stack/native/preflight.sh test      and what the tests call themselves
#
# fanout itself never calls a system's package manager. Kafka, Connect, Debezium
# and ClickHouse's engine are no system packages: `fanout up` fetches them into
# a cache of the user's own.

set -u
# Where rustup puts cargo, in a shell that was open before rustup came; first,
# as rustup has it: a system's own rust may be too old.
PATH=${HOME:-/root}/.cargo/bin:$PATH

rust_at_least=1.95

# --- what is missing ---------------------------------------------------------

missing=''    # a line for each
packages=''   # Debian's names
rust_line=''  # the command that brings Rust
components='' # of the Rust toolchain

wants() { # <what> <what is wrong> <what for> [<package>…]
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

# Whether version $1 is $2 or newer; both are major or major.minor.
is_at_least() {
    major=${1%%.*} minor=0
    case $1 in *.*) minor=${1#*.} minor=${minor%%[!0-9]*} ;; esac
    least_minor=0
    case $2 in *.*) least_minor=${2#*.} ;; esac
    [ "$major" -gt "${2%%.*}" ] 2>/dev/null ||
        { [ "$major" -eq "${2%%.*}" ] && [ "$minor" -ge "$least_minor" ]; } 2>/dev/null
}

# The first number in stdin, with its first part after the dot: 15.20, 17.0, 1.95.
first_version() {
    sed -n 's/^[^0-9]*\([0-9][0-9]*\(\.[0-9][0-9]*\)\{0,1\}\).*/\1/p' | sed -n 1p
}

look_for_rust() {
    version=
    if has cargo && has rustc; then version=$(rustc --version 2>/dev/null | first_version); fi
    if [ -z "$version" ]; then
        wants rust 'is not there' "fanout is built with $rust_at_least or newer"
    elif ! is_at_least "$version" "$rust_at_least"; then
        wants rust "is of version $version" "fanout is built with $rust_at_least or newer"
    else
        return
    fi
    if has rustup; then
        rust_line='rustup default stable && rustup update stable'
    else
        has curl || wants curl 'is not there' 'installing rust' curl ca-certificates
        rust_line="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
    fi
}

look_for_components() {
    [ -z "$rust_line" ] || return 0
    cargo fmt --version >/dev/null 2>&1 || components='rustfmt'
    cargo clippy --version >/dev/null 2>&1 || components="${components:+$components }clippy"
    for component in $components; do
        wants "$component" 'is not there' 'make lint'
    done
}

look_for_build_tools() {
    for tool in cc c++; do
        has "$tool" || wants "$tool" 'is not there' 'building librdkafka' g++
    done
    has make || wants make 'is not there' 'building librdkafka' make
}

look_for_java() {
    # Debian 11 and Ubuntu to 22.04 have an older default.
    package=default-jre-headless
    case $system in
        debian:11* | ubuntu:18.* | ubuntu:20.* | ubuntu:22.*) package=openjdk-17-jre-headless ;;
    esac
    if ! has java; then
        wants java 'is not there' 'kafka, connect: 17 or newer' "$package"
        return
    fi
    version=$(java -version 2>&1 | sed -n 's/.* version "\([^"]*\)".*/\1/p')
    is_at_least "${version:-0}" 17 ||
        wants java "is of version ${version:-unknown}" 'kafka, connect: 17 or newer' "$package"
}

look_for_python() {
    if ! has python3; then
        wants python3 'is not there' "clickhouse's engine: 3.9 or newer" python3 python3-venv
    elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        wants python3 'is older than 3.9' "clickhouse's engine" python3 python3-venv
    elif ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        wants python3 'cannot make virtual environments' "clickhouse's engine" python3-venv
    fi
}

newest_postgres() { # of where Debian and Fedora keep them
    for postgres in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres; do
        if [ -x "$postgres" ]; then
            printf '%s %s\n' "$(printf %s "$postgres" | tr -cd 0-9)" "$postgres"
        fi
    done | sort -rn | sed -n '1s/^[^ ]* //p'
}

look_for_postgres() {
    found=$(command -v postgres) || found=$(newest_postgres)
    if [ -z "$found" ]; then
        wants postgres 'is not there' 'the source database: 14 or newer' postgresql
        return
    fi
    version=$("$found" --version 2>/dev/null | first_version)
    is_at_least "${version:-0}" 14 ||
        wants postgres "is of version ${version:-unknown}" 'the source database: 14 or newer' postgresql
}

look_for_redis() {
    if ! has redis-server; then
        wants redis-server 'is not there' "the board's store: 6 or newer" redis-server
        return
    fi
    version=$(redis-server --version 2>/dev/null | first_version)
    is_at_least "${version:-0}" 6 ||
        wants redis-server "is of version ${version:-unknown}" "the board's store: 6 or newer" redis-server
}

look_for_curl() {
    case " $packages " in *' curl '*) return ;; esac
    has curl || wants curl 'is not there' 'the tests' curl
}

look() {
    missing='' packages='' rust_line='' components=''
    look_for_rust
    [ "$1" = run ] || look_for_components
    [ "$1" != test ] || look_for_curl
    look_for_build_tools
    look_for_java
    has mvn || wants mvn 'is not there' 'fetching kafka, connect and debezium' maven
    look_for_python
    look_for_postgres
    look_for_redis
}

# --- what to do about it -----------------------------------------------------

# The line that brings all of it.
remedy() {
    line=
    if [ -n "$packages" ]; then
        as_root=
        [ "$(id -u)" = 0 ] || as_root='sudo '
        line="${as_root}apt-get update && ${as_root}apt-get install -y --no-install-recommends $packages"
    fi
    [ -z "$rust_line" ] || line="${line:+$line && }$rust_line"
    [ -z "$components" ] || line="${line:+$line && }rustup component add $components"
    printf '%s\n' "$line"
}

give_up() { # <why>
    printf '\npreflight: %s. Type this, then the same make again:\n\n    %s\n' "$1" "$(remedy)"
    if [ -n "$packages" ] && ! has apt-get; then
        printf '\n(The names are those of Debian; this system has its own.)\n'
    fi
    exit 3
}

# Runs a command quietly; its words are shown when it fails.
quietly() {
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 20 "$log"
        give_up "this failed: $* (all of it is in $log)"
    fi
}

# A machine that has just started updates its lists itself: apt-get does not wait
# for those. A source that does not answer is no reason to do without the others.
update_lists() {
    echo 'preflight: apt-get update'
    tries=60
    until LC_ALL=C apt-get update >"$log" 2>&1 </dev/null; do
        tries=$((tries - 1))
        if [ "$tries" -gt 0 ] && grep -Eq 'Could not get lock|Unable to lock' "$log"; then
            [ "$tries" -ne 59 ] || echo 'preflight: another process updates the lists; waiting for it'
            sleep 5
            continue
        fi
        tail -n 5 "$log"
        echo 'preflight: that failed; going on with the lists as they are'
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
            echo 'preflight: Debian starts servers of its own with these packages. fanout leaves them alone'
            echo '           and takes other ports where they hold the usual ones.'
            ;;
    esac
}

# All it says is for people.
exec >&2
# shellcheck source=/dev/null
system=$(. /etc/os-release 2>/dev/null && printf '%s:%s' "${ID:-}" "${VERSION_ID:-}")
for_what=${1:-run}

look "$for_what"
[ -n "$missing" ] || exit 0

printf 'preflight: this machine lacks\n%s' "$missing"

if [ -n "$packages" ]; then
    [ "$(id -u)" = 0 ] || give_up 'installing that takes root'
    case $system in
        debian:* | ubuntu:*) install_packages ;;
        *) give_up 'this is neither Debian nor Ubuntu' ;;
    esac
fi
if [ -n "$components" ]; then
    echo "preflight: rustup component add $components"
    # shellcheck disable=SC2086  # a list of words
    rustup component add $components || give_up 'that failed'
fi

look "$for_what"
[ -z "$rust_line" ] || [ -n "$packages" ] || give_up 'rust is yours to install'
[ -z "$missing" ] || {
    printf 'preflight: what is still missing\n%s' "$missing"
    give_up 'the packages of this system do not do'
}
echo 'preflight: all there'
