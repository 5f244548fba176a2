# Everything that a fresh Debian-like machine needs, besides the Rust toolchain and make, is installed from here.
SHELL := /bin/bash
CARGO ?= cargo
PACKAGES := clang llvm libelf-dev zlib1g-dev pkg-config gcc make iproute2 nftables iptables
# Empty for root, and where there is no sudo: what is run then says what it needs.
AS_ROOT := $(shell [ $$(id -u) = 0 ] || command -v sudo)
JSON_PACKAGES := jq
CLUSTER_PACKAGES := containerd runc containernetworking-plugins nftables iptables conntrack iproute2 openssl jq
# Debian's cross packages; its linker and C library come with the compiler.
ARM64_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross libelf-dev:arm64 zlib1g-dev:arm64 linux-libc-dev:arm64
# promtool and a server to scrape with.
MONITORING_PACKAGES := prometheus
KERNEL_PACKAGES := qemu-system-x86 busybox-static cpio kmod xz-utils jq

.PHONY: measure monitoring-packages metrics-reference packages kernel-packages json-packages cluster-packages cluster-build cluster-up cluster-down image arm64-packages arm64 e2e build test lint deny demo kernels semantics differential bench restarts

packages: INSTALL := $(PACKAGES)
kernel-packages: INSTALL := $(KERNEL_PACKAGES)
json-packages: INSTALL := $(JSON_PACKAGES)
cluster-packages: INSTALL := $(CLUSTER_PACKAGES)
monitoring-packages: INSTALL := $(MONITORING_PACKAGES)

# Silent and without root where all is there already.
packages kernel-packages json-packages cluster-packages monitoring-packages:
	@missing=$$(dpkg-query -W -f='$${db:Status-Abbrev} $${Package}\n' $(INSTALL) 2>/dev/null | awk '$$1=="ii"{print $$2}' \
		| sort | comm -13 - <(printf '%s\n' $(INSTALL) | sort)); \
	if [ -n "$$missing" ]; then \
		sudo=$$([ $$(id -u) = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing; \
	fi

build: packages
	$(CARGO) build --locked --release

lint: packages deny
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# A small shop in network namespaces, judged by the real thing; some 20 s once built. Only the last step is run as root.
demo: packages
	$(CARGO) build --locked --release --bin palisade --example demo
	$(AS_ROOT) $${CARGO_TARGET_DIR:-target}/release/examples/demo

# With a real API server, for which Kubernetes is built once.
test: packages monitoring-packages cluster-build lint
	$(CARGO) test --locked

# Writes the table of docs/metrics.md from the metrics that there are.
metrics-reference: packages
	UPDATE_GOLDEN=1 $(CARGO) test --locked --test docs documented_metrics

# The rules on dependencies that need no tool besides cargo; deny.toml has the others, and this one again.
deny:
	@$(CARGO) tree --locked -q -i k8s-openapi >/dev/null || \
		{ echo 'more than one k8s-openapi, or none: types of two versions do not mix (see deny.toml)' >&2; exit 1; }

# Packet tables and attaching, on Debian's kernels in QEMU guests; e2e/kernels/run says what can be chosen.
kernels: packages kernel-packages
	CARGO='$(CARGO)' e2e/kernels/run

# Each line of docs/semantics.md with its tests; fails on one that is due and has none.
semantics: packages
	$(CARGO) test --locked --test semantics -- --nocapture every_line

# PALISADE_SEED repeats a run.
differential: packages
	PALISADE_VERDICTS=$${PALISADE_VERDICTS:-2000000} PALISADE_PACKETS=$${PALISADE_PACKETS:-100000} $(CARGO) test --locked --release \
		--test differential --test explain_agreement --test diff_agreement -- --nocapture

# As root: killed and started again so often, for each kind of attachment, while packets are counted at both ends.
restarts: packages
	PALISADE_RESTARTS=$${PALISADE_RESTARTS:-100} $(CARGO) test --locked --test live kill_and_restart -- --nocapture

# As root. Each part writes target/bench.<part>.json; one file of them all is made at the end.
bench: packages json-packages
	@rm -f target/bench.json target/bench.*.json
	$(CARGO) bench --locked --bench datapath --bench edits --bench resolve
	@jq -s 'reduce .[] as $$part ({}; . * $$part)' target/bench.*.json >target/bench.json
	@echo 'wrote target/bench.json'

# Two nodes of a real Kubernetes in network namespaces; only its build is not run as root. e2e/cluster/README.md says what there is.
cluster-build: cluster-packages
	e2e/cluster/build

# sudo keeps no environment.
cluster-up cluster-down: AS_ROOT += env PROXY_MODE='$(PROXY_MODE)' CNI='$(CNI)' IP_FAMILY='$(IP_FAMILY)' CLUSTER_DIR='$(CLUSTER_DIR)' \
	CARGO_TARGET_DIR='$(CARGO_TARGET_DIR)'

cluster-up: cluster-build
	$(AS_ROOT) e2e/cluster/up

cluster-down:
	$(AS_ROOT) e2e/cluster/down

# What the Dockerfile's final stage holds, where no container engine runs. PROFILE=dev is built sooner.
image: packages json-packages
	e2e/image/binary $$(dpkg --print-architecture) target/image/palisade
	e2e/image/build target/image/palisade target/image/palisade.tar

arm64-packages:
	@if ! dpkg --print-foreign-architectures | grep -qx arm64 && [ $$(dpkg --print-architecture) != arm64 ]; then \
		$(AS_ROOT) dpkg --add-architecture arm64; \
		$(AS_ROOT) apt-get update -qq; \
	fi
	@DEBIAN_FRONTEND=noninteractive $(AS_ROOT) apt-get install -y -qq --no-install-recommends $(ARM64_PACKAGES)

arm64: packages arm64-packages
	PROFILE=$${PROFILE:-dev} e2e/image/binary arm64 target/image/palisade-arm64

# As root for E2E_PROVIDER=harness. PROXY_MODE, CNI, IP_FAMILY as for cluster-up; IMAGE_BINARY is taken instead of being built.
e2e: packages $(if $(filter kind,$(E2E_PROVIDER)),json-packages,cluster-build)
	e2e/run

# As root, on the cluster that E2E_KEEP=1 make e2e leaves; e2e/measure/README.md says what the environment sets.
measure: packages cluster-packages
	e2e/measure/run
