# rbuild: one command each for what people do here. `make demo` and `make test` work on a fresh Debian machine with Rust.

SHELL := /bin/bash
CARGO ?= cargo
RBUILD = target/release/rbuild

.PHONY: build demo test test-wide soak fuzz bench prerequisites prerequisites-test prerequisites-wide lint clean

build:
	$(CARGO) build --release --locked

# What the demo and the tests use as commands. Nothing is installed when all of it is there.
prerequisites:
	@tests/prerequisites.sh busybox-static skopeo umoci runc uidmap docker-registry curl openssh-client git

# A real client of BuildKit's, for the tests; it stays below .cache.
prerequisites-test: prerequisites
	@tests/client.sh docker-buildx >/dev/null

prerequisites-wide: prerequisites
	@tests/prerequisites.sh mmdebstrap ca-certificates

demo: prerequisites build
	@tests/demo.sh $(RBUILD)

test: prerequisites-test
	$(CARGO) test --workspace --locked

test-wide: prerequisites-wide
	RBUILD_WIDE=1 $(CARGO) test --locked --test wide -- --test-threads=1 --nocapture
	RBUILD_WIDE=1 $(CARGO) test --locked --test daemon compose -- --nocapture

soak: prerequisites-test
	RBUILD_SOAK=1 RBUILD_PLAN_GRAPHS=20000 $(CARGO) test --release --locked -p solver
	RBUILD_SOAK=1 $(CARGO) test --locked --test crash --test shared -- --nocapture
	RBUILD_SOAK=1 $(CARGO) test --locked --test daemon -- --nocapture --test-threads=1

# Five minutes of each target; FUZZ_SECONDS=60 is one.
fuzz:
	frontend/fuzz/run.sh $(or $(FUZZ_SECONDS),300)

# BUILDERS="buildah buildkit=SOCKET" compares with these.
bench: build
	benches/builders.py rbuild=$(RBUILD) $(BUILDERS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

clean:
	$(CARGO) clean
