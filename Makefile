# On a fresh machine, `make demo` and `make test` set up everything they need.

.DEFAULT_GOAL := help
.PHONY: help demo test nightly test-docker storm bench fuzz lint build preflight down reset

# The folder where rustup installs cargo, for shells that were opened before. It
# comes first, as rustup does it, because the system's Rust may be too old.
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO_TARGET_DIR ?= target
FANOUT := $(CARGO_TARGET_DIR)/release/fanout
# Duration of `make fuzz`.
FUZZ_SECONDS ?= 60
# Runtime of the demo's servers. `make demo RUNTIME=docker` pulls images.
RUNTIME ?= native

step = @say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$$1"; else printf '\n%s\n' "$$1"; fi; }; say

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: preflight build ## install missing programs, build, run everything on sample events, show the three sinks
	$(step) 'Start Postgres, Kafka, Connect with Debezium, Redis, ClickHouse, the external system and the pipeline'
	$(FANOUT) --runtime $(RUNTIME) up --ports auto
	$(step) 'Write 8 contents and 500 events into Postgres'
	$(FANOUT) seed --events 500 --content 8
	$(step) 'Wait until everything has arrived, and compare every store with Postgres and the log'
	$(FANOUT) verify --timeout 120s
	$(step) 'Follow a test event through every hop'
	$(FANOUT) smoke
	$(step) 'Redis: the ten contents with the most events in the last ten minutes'
	$(FANOUT) leaderboard
	$(step) 'ClickHouse: the latest enriched rows'
	$(FANOUT) peek clickhouse -n 5
	$(step) 'The external system: the latest calls'
	$(FANOUT) peek http -n 3
	$(step) 'Status'
	$(FANOUT) status
	$(step) 'Everything keeps running. Try next'
	@printf '  %s\n' \
		'$(FANOUT) seed --rate 50          write events until Ctrl-C' \
		'$(FANOUT) leaderboard --watch     watch the board, in another terminal' \
		'$(FANOUT) peek kafka -n 3         show the latest Debezium records' \
		'$(FANOUT) doctor                  check the machine and the servers' \
		'$(FANOUT) env                     show the server addresses' \
		'$(FANOUT) logs -f                 follow the service logs'
		$(step) 'Stop'
	@printf '  %s\n' \
		'make down                                stop, keep the data' \
		'make reset                               stop, remove the data'

test: set_up_for := test
test: lint ## install missing programs, then run every check and test, on real servers
	cargo test --locked --no-fail-fast --features crash-points

nightly: test ## `make test`, then the slow tests
	FANOUT_TEST_NIGHTLY=1 cargo test --locked --features crash-points --test stack -- masses::

test-docker: ## test the stack in containers; starts a container engine if none is running
	tests/docker/run.sh

# Uses the feature of `make test`, so that both share one build.
storm: preflight ## inject faults on a schedule for STORM_MINUTES (3), then compare every store with the source
	cargo test --locked --features crash-points --test storm -- --include-ignored

bench: preflight ## measure the pipeline on recorded events
	cargo bench --locked

# Without a sanitizer, the stable compiler is enough. The decoder has no unsafe code that a sanitizer could check.
fuzz: preflight ## fuzz the decoder, from recorded events, for FUZZ_SECONDS
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz@0.13.2
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	cargo fuzz run --sanitizer none decode -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=10

lint: ## check formatting, clippy (warnings are errors) and dependencies
	@stack/native/preflight.sh $(or $(set_up_for),lint)
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --all-targets --locked --features crash-points -- -D warnings
	@tests/dependencies.sh

build: preflight ## build the optimised binary
	cargo build --release --locked

preflight: ## install missing programs, or print how to
	@stack/native/preflight.sh

down: ## stop the demo, keep its data
	$(FANOUT) down

reset: ## stop the demo and remove its data
	$(FANOUT) reset --yes
