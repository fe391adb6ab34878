#!/bin/sh
# Checks the dependencies of fanout and its fuzzer: that the lock files are up to
# date, the licences and sources of all crates, and, if the advisory database is
# reachable, known vulnerabilities. .deny.toml lists what is accepted.
set -eu
cd "$(dirname "$0")/.."
cargo_deny=0.20.2

say() { printf 'dependencies: %s\n' "$*" >&2; }

if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $cargo_deny" ]; then
    say "installing cargo-deny $cargo_deny once; this takes a few minutes"
    # A debug build takes half the time, and still checks in a few seconds.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --force --debug "cargo-deny@$cargo_deny"
fi

deny() { # <Cargo.toml> <check>...
    manifest=$1
    shift
    cargo deny --log-level error --manifest-path "$manifest" --config .deny.toml --locked check "$@"
}

for manifest in Cargo.toml fuzz/Cargo.toml; do
    say "$manifest: lock file, licences, sources"
    deny "$manifest" bans licenses sources
done

if cargo deny --log-level off --manifest-path Cargo.toml --locked fetch db 2>/dev/null; then
    say 'known vulnerabilities'
    deny Cargo.toml --disable-fetch advisories
elif [ -n "${GITHUB_ACTIONS:-}" ]; then
    say 'the advisory database is unreachable, but it is required in CI'
    exit 1
else
    say 'known vulnerabilities were NOT checked: the advisory database is unreachable'
fi
