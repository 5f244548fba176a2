# Everything that a fresh Debian-like machine needs, besides the Rust toolchain and make, is installed from here.
SHELL := /bin/bash
CARGO ?= cargo
PACKAGES := clang llvm libelf-dev zlib1g-dev pkg-config gcc make iproute2 nftables

.PHONY: packages build test lint semantics differential

# Silent and without root where all is there already.
packages:
	@missing=$$(dpkg-query -W -f='$${db:Status-Abbrev} $${Package}\n' $(PACKAGES) 2>/dev/null | awk '$$1=="ii"{print $$2}' \
		| sort | comm -13 - <(printf '%s\n' $(PACKAGES) | sort)); \
	if [ -n "$$missing" ]; then \
		sudo=$$([ $$(id -u) = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing; \
	fi

build: packages
	$(CARGO) build --locked --release

lint: packages
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

test: packages lint
	$(CARGO) test --locked

# Each line of docs/semantics.md with its tests; fails on one that is due and has none.
semantics: packages
	$(CARGO) test --locked --test semantics -- --nocapture every_line

# PALISADE_SEED repeats a run.
differential: packages
	PALISADE_VERDICTS=$${PALISADE_VERDICTS:-2000000} $(CARGO) test --locked --release --test differential -- --nocapture
