# make demo   a node that refuses, shown; as root
# make test   all tests; the node tests as root
# make lint   what must hold for every change
# make deb    target/debian/pullgate.deb
# make rpm    target/generate-rpm/pullgate.rpm
# make bench  measured side by side with its peers

export PULLGATE_CACHE ?= $(if $(filter 0,$(shell id -u)),/var/cache/pullgate,$(HOME)/.cache/pullgate)
export PATH := $(PULLGATE_CACHE)/tools/bin:$(PATH)

DEB := $(abspath target/debian/pullgate.deb)
RPM := $(abspath target/generate-rpm/pullgate.rpm)
# The node tests need the package and a machine; they come last.
TESTS := $(patsubst tests/%.rs,--test %,$(filter-out tests/node.rs,$(wildcard tests/*.rs)))

.PHONY: demo test lint deb rpm bench release setup-%
.DEFAULT_GOAL := deb

demo: setup-node deb
	PULLGATE_DEB=$(DEB) cargo run --locked --release --quiet --example demo -- --deb $(DEB)

test: setup-node deb
	cargo test --locked --lib --bins $(TESTS)
	PULLGATE_DEB=$(DEB) cargo test --locked --test node

# Tests may unwrap; the rest of the code may not.
lint: setup-lint
	cargo fmt --check
	cargo clippy --locked --quiet --lib --bins -- -D warnings
	cargo clippy --locked --quiet --tests --examples --benches -- -D warnings -A clippy::unwrap_used -A clippy::expect_used
	cargo test --locked --quiet --test purity --test shipped
	packaging/lint

deb: setup-deb release
	cargo deb --locked --quiet --no-build --no-strip --output $(DEB)
	@echo $(DEB)

rpm: setup-rpm release
	@mkdir -p $(dir $(RPM))
	cargo generate-rpm --output $(RPM)
	@echo $(RPM)

bench: setup-node deb
	PULLGATE_DEB=$(DEB) cargo run --locked --release --quiet --example bench

release: setup-build
	cargo build --locked --release --bins

setup-%:
	@packaging/setup $*
