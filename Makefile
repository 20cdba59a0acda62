# `make demo` and `make test` are all a newcomer needs; both install what is missing when they may (as root, or with a
# sudo that asks for no password) and say what to install when they may not.

CARGO      ?= cargo
DEMO_OUT   ?= demo
# A test that needs what is missing here (root, a program) is skipped with a printed reason, unless VPTEST_REQUIRE names it.

.PHONY: help demo test check lint unit build install bench bpf reference simulations clean

help:
	@echo "make demo     run a real sweep on this machine, two minutes after the build"
	@echo "make test     formatting, lints, documentation and all tests"
	@echo "make build    target/release/vptest"
	@echo "make install  put vptest into ~/.cargo/bin"
	@echo "make bench    measure against the named peers (benches/README.md)"

build:
	@.ci/need build
	$(CARGO) build --release --locked

install: build
	$(CARGO) install --locked --path .

demo:
	@.ci/need build demo
	$(CARGO) build --release --locked
	@.ci/demo target/release/vptest $(DEMO_OUT)

test: lint unit

lint:
	@.ci/need build test
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet

unit:
	@.ci/need build test
	$(CARGO) test --locked --lib --test it

bench:
	@.ci/need build test bench
	benches/all.sh

# Reference numbers of the statistics: needs Python's venv and R (apt-get install python3-venv r-base-core).
reference:
	python3 -m venv target/reference
	target/reference/bin/pip install --quiet -r tests/reference/requirements.txt
	target/reference/bin/python -W ignore tests/reference/first_analysis.py
	target/reference/bin/python -W ignore tests/reference/statistics.py

# The figures of docs/analysis.md: coverage of intervals and errors of verdicts.
simulations:
	$(CARGO) test --locked --release --lib analysis::stats::simulations -- --include-ignored --nocapture
	$(CARGO) test --locked --release --lib analysis::anomalies::tests::simulated -- --include-ignored --nocapture

# The committed object is what this makes with clang 14.0.6 (apt-get install clang-14 llvm-14); a test compares the two where it is there.
bpf:
	cd src/instrument/syscalls/bpf && \
	clang-14 -O2 -g -fdebug-compilation-dir=. -target bpf -mcpu=v3 -Wall -Wextra -Wno-unused-parameter \
	  -c syscalls.bpf.c -o syscalls.bpf.o && llvm-strip-14 -g syscalls.bpf.o

clean:
	$(CARGO) clean
