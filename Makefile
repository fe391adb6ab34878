# Two commands do all on a fresh machine: `make demo` and `make test`.

.DEFAULT_GOAL := help
.PHONY: help demo test nightly test-docker storm bench fuzz lint build preflight down reset

# Where rustup puts cargo, in a shell that was open before rustup came; first,
# as rustup has it: a system's own rust may be too old.
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO_TARGET_DIR ?= target
FANOUT := $(CARGO_TARGET_DIR)/release/fanout
# How long the decoder is fuzzed.
FUZZ_SECONDS ?= 60
# How the demo's servers are run: `make demo RUNTIME=docker` pulls images.
RUNTIME ?= native

step = @say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$$1"; else printf '\n%s\n' "$$1"; fi; }; say

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: preflight build ## set up what is missing, build, run it all on made-up events, show the three sinks
	$(step) 'Start Postgres, Kafka, Connect with Debezium, Redis, ClickHouse, the external system and the pipeline'
	$(FANOUT) --runtime $(RUNTIME) up --ports auto
	$(step) 'Write 8 pieces of content and 500 events into Postgres'
	$(FANOUT) seed --events 500 --content 8
	$(step) 'Wait until all of it has arrived, and hold every store against Postgres and the log'
	$(FANOUT) verify --timeout 120s
	$(step) 'Follow one more event through every hop'
	$(FANOUT) smoke
	$(step) 'Redis: the ten with the most events of the last ten minutes'
	$(FANOUT) leaderboard
	$(step) 'ClickHouse: the latest enriched rows'
	$(FANOUT) peek clickhouse -n 5
	$(step) 'The external system: the latest calls it took'
	$(FANOUT) peek http -n 3
	$(step) 'Where it stands'
	$(FANOUT) status
	$(step) 'It is left running. Try next'
	@printf '  %s\n' \
		'$(FANOUT) seed --rate 50          a live load, until Ctrl-C' \
		'$(FANOUT) leaderboard --watch     the board as it moves, in another terminal' \
		'$(FANOUT) peek kafka -n 3         what Debezium writes into the log' \
		'$(FANOUT) doctor                  what the machine and the servers lack' \
		'$(FANOUT) env                     where the servers are' \
		'$(FANOUT) logs -f                 what they say'
	$(step) 'Stop it'
	@printf '  %s\n' \
		'make down                                keeps the data' \
		'make reset                               removes it too'

test: set_up_for := test
test: lint ## the same set-up, then every check and test, on real servers
	cargo test --locked --no-fail-fast --features crash-points

nightly: test ## `make test`, then the tests that take minutes each
	FANOUT_TEST_NIGHTLY=1 cargo test --locked --features crash-points --test stack -- masses::

test-docker: ## the stack in containers; starts an engine where there is none and that can be
	tests/docker/run.sh

# With the feature of `make test`, so that both have one build.
storm: preflight ## break everything on a schedule for STORM_MINUTES (3), then hold every store against the source
	cargo test --locked --features crash-points --test storm -- --include-ignored

bench: preflight ## measure the pipeline on recorded events
	cargo bench --locked

# Without a sanitizer the compiler that builds fanout will do: the decoder has no unsafe code to find fault with.
fuzz: preflight ## fuzz the decoder, from recorded events, for FUZZ_SECONDS
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz@0.13.2
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	cargo fuzz run --sanitizer none decode -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=10

lint: ## formatting, clippy (warnings are errors) and what the dependencies are
	@stack/native/preflight.sh $(or $(set_up_for),lint)
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --all-targets --locked --features crash-points -- -D warnings
	@tests/dependencies.sh

build: preflight ## the binary, optimised
	cargo build --release --locked

preflight: ## set up what is missing, or say how
	@stack/native/preflight.sh

down: ## stop the demo, keep its data
	$(FANOUT) down

reset: ## stop the demo and remove its data
	$(FANOUT) reset --yes
