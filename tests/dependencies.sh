#!/bin/sh
# Checks what fanout and its fuzzer depend on: that the lock files are up to
# date, the licences and the sources of all crates, and, where the database of
# advisories can be reached, known vulnerabilities. What to accept is in
# .deny.toml.
set -eu
cd "$(dirname "$0")/.."
cargo_deny=0.20.2

say() { printf 'dependencies: %s\n' "$*" >&2; }

if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $cargo_deny" ]; then
    say "installing cargo-deny $cargo_deny; it takes a few minutes, once"
    # Unoptimised: it builds in half the time and checks in a few seconds.
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
    say 'the database of advisories cannot be reached, and here it has to be'
    exit 1
else
    say 'known vulnerabilities were NOT checked: the database of advisories cannot be reached from here'
fi
