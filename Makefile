# One task runner for everything; `make help` lists it. A fresh machine needs Rust, a C compiler and some python3: the
# rest goes into .build/, and `make clean` removes it.
#
# PYTHON chooses the interpreter, as a path or a version (`make test PYTHON=3.12`); without it .ci/find-python looks for
# one. Each version has its own virtual environment and cargo target directory, since PyO3 is compiled for one
# interpreter, so that a second version rebuilds nothing of the first.

PYTHON ?=
PORT ?= 8000
PYTEST ?=
BENCH ?=
SOAK ?=
FUZZ ?=
SUITES ?=
STDLIB ?=
CARGO_TESTS ?= yes
BUILD ?= .build
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# These need neither Python nor Rust.
ifneq ($(filter-out help test-matrix clean,$(or $(MAKECMDGOALS),help)),)
FOUND := $(shell BUILD='$(BUILD)' sh .ci/find-python $(PYTHON))
ifeq ($(FOUND),)
$(error no usable Python, as said above)
endif
RUST := $(shell sh .ci/check-rust && echo usable)
ifeq ($(RUST),)
$(error no usable Rust, as said above)
endif
endif
TAG := $(word 1,$(FOUND))
LIBDIR := $(word 2,$(FOUND))
INTERPRETER := $(wordlist 3,99,$(FOUND))

VENV := $(BUILD)/venv-$(TAG)
BIN := $(VENV)/bin
SUITES_VENV := $(BUILD)/suites/venv-$(TAG)
# Not README.md: its text is metadata, which no test reads from here.
PACKAGE_SOURCES := Cargo.toml Cargo.lock pyproject.toml MANIFEST.in LICENSE $(wildcard src/*.profdata) \
	$(sort $(shell find src python gunicorn_worker -type f \
	\( -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name py.typed \) ! -path '*.egg-info/*'))

# Without PYO3_PYTHON, PyO3 takes whatever python3 is, and rebuilds whenever PATH changes.
CARGO_PYTHON := CARGO_TARGET_DIR='$(abspath $(BUILD))/target-$(TAG)' PYO3_PYTHON='$(abspath $(BIN))/python'

# Unit tests of the layers that use Python are executables that embed it: they link with libpython and find it at run
# time by LD_LIBRARY_PATH. An interpreter without a shared libpython (pyenv's default; Debian's without python3.x-dev)
# cannot be embedded so: then the layers below Python are tested here, and the rest by pytest only. The extension module
# itself never links with libpython: setuptools-rust sees to that.
ifeq ($(LIBDIR),-)
CARGO_TEST := cargo test --locked --no-default-features
else
CARGO_TEST := LD_LIBRARY_PATH='$(LIBDIR)' cargo test --locked
endif

READY := $(VENV)/.dependencies $(VENV)/.installed

# A few seconds for each layer: `make check` runs these.
SMOKE := -m 'not packaging' tests/repository --ignore=tests/repository/test_docs.py \
	tests/http/test_http.py tests/websocket/test_websocket.py \
	tests/wsgi/test_wsgi.py tests/coroutine/test_coroutine.py tests/patch/test_select.py tests/python/test_settings.py \
	tests/gunicorn/test_gunicorn_options.py

# The fuzz targets are a package of their own, without Python.
CARGO_FUZZ := CARGO_TARGET_DIR='$(abspath $(BUILD))/fuzz/target'

.PHONY: help
help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | awk -F '\t' '{ printf "  make %-18s %s\n", $$1, $$2 }'
	@echo
	@echo '  PYTHON=3.12 or PYTHON=/path/to/python chooses the interpreter, PYTEST="-k name" the tests,'
	@echo '  PORT=8001 the port of run, BENCH="--rounds 1" the options of bench, FUZZ="--target head" those of fuzz,'
	@echo '  SUITES="django" which suites, SOAK="--reloads 20" how often.'

.PHONY: run
run: port $(VENV)/.installed ## Build, and serve the demo at http://127.0.0.1:8000 until Ctrl-C.
	@exec $(BIN)/python -m rmeinheld --bind 127.0.0.1:$(PORT) --chdir examples app:app

# Asked before the build, which takes a minute.
.PHONY: port
port:
	@'$(INTERPRETER)' -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null || \
		{ echo 'Port $(PORT) of 127.0.0.1 is taken. Choose another one: make run PORT=8001' >&2; exit 1; }

.PHONY: dev
dev: $(VENV)/.dependencies ## Build in seconds for editing, and run what PYTEST names: make dev PYTEST="-k chunked".
	@rm -f $(VENV)/.installed
	@$(CARGO_PYTHON) $(BIN)/python .ci/install.py --dev '$(BUILD)/dev-$(TAG)'
	$(if $(PYTEST),$(CARGO_PYTHON) BUILD='$(BUILD)' $(BIN)/pytest $(PYTEST))

.PHONY: build
build: $(READY) ## Build and install the package, as test does before it begins, with the tools of the tests.

.PHONY: check
check: $(VENV)/.dependencies ## Check format, lints, unit tests in Rust and a fast part of the others, on the build of dev.
	$(lints)
	$(CARGO_PYTHON) $(CARGO_TEST) --quiet
	@$(MAKE) --no-print-directory dev PYTHON='$(INTERPRETER)' PYTEST="-q $(SMOKE)"

.PHONY: test
test: $(READY) ## Build, and run all tests: cargo test, then pytest on the installed package.
	$(if $(CARGO_TESTS),$(CARGO_PYTHON) $(CARGO_TEST))
	$(CARGO_PYTHON) BUILD='$(BUILD)' $(BIN)/pytest -o cache_dir='$(BUILD)/pytest-$(TAG)' $(PYTEST)

.PHONY: test-oldest-gunicorn
test-oldest-gunicorn: $(READY) ## Run a part of the tests of services with the oldest Gunicorn that is supported.
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target '$(BUILD)/gunicorn-oldest' 'gunicorn==24.1.0'
	PYTHONPATH='$(abspath $(BUILD))/gunicorn-oldest' $(BIN)/pytest tests/gunicorn/test_service_replacement.py \
		tests/gunicorn/test_service_stop.py tests/gunicorn/test_service_upgrade.py \
		-k 'requests or reload or first_start or term or interrupt or quit or upgrade' \
		-o cache_dir='$(BUILD)/pytest-oldest-gunicorn' $(PYTEST)

.PHONY: stdlib
stdlib: $(READY) ## Run CPython's own tests in a coroutine under the patches (STDLIB="test_socket" for one file).
	$(BIN)/python tests/stdlib/cpython_tests.py $(STDLIB)

.PHONY: suites
suites: $(SUITES_VENV)/.installed ## Run suites that others wrote, from PyPI, against the server.
	$(SUITES_VENV)/bin/python tests/suites/run.py --work '$(BUILD)/suites' $(SUITES)

.PHONY: autobahn
autobahn: $(SUITES_VENV)/.installed ## Run Autobahn's original test suite of WebSockets (needs Python 2.7; `suites` has its cases).
	$(SUITES_VENV)/bin/python tests/suites/autobahn.py --work '$(BUILD)/suites'

.PHONY: test-matrix
test-matrix: ## Test on 3.12 to 3.15 and with the interpreter's assertions (root; from Debian what is missing).
	sh .ci/test-matrix

define lints
	cargo fmt --check
	$(CARGO_PYTHON) cargo clippy --locked --all-targets -- -D warnings
	$(CARGO_PYTHON) cargo clippy --locked --all-targets --no-default-features -- -D warnings
	cd tests/fuzz && cargo fmt --check
	cd tests/fuzz && $(CARGO_FUZZ) cargo clippy --locked --all-targets --no-default-features -- -D warnings
	PATH='$(abspath $(BIN))':"$$PATH" cargo deny --locked check licenses bans sources
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python .ci/plain_english.py
endef

.PHONY: lint
lint: $(VENV)/.dependencies ## Check format, lints and English, and that the lower layers build without Python.
	$(lints)

.PHONY: docstrings
docstrings: $(READY) ## Write the docstrings of the compiled module, which are Rust doc comments, into its stub.
	$(BIN)/python .ci/stub_docstrings.py --write
	$(BIN)/ruff format python/rmeinheld/_rmeinheld.pyi

.PHONY: types
types: $(READY) ## Check the types of Python code, and the stubs against the compiled module.
	$(BIN)/mypy -p rmeinheld
	MYPYPATH=tests/support:tests/apps:tests/suites:tests/stdlib:tests/fuzz:.ci:docs/_extensions $(BIN)/mypy tests .ci
	MYPYPATH=benches:tests/support $(BIN)/mypy benches
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml rmeinheld._rmeinheld

.PHONY: docs
docs: $(READY) $(VENV)/.docs ## Build the documentation's site into .build/docs/html; warnings are errors.
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs '$(BUILD)/docs/html'

.PHONY: docs-links
docs-links: $(READY) $(VENV)/.docs ## Check the links of the documentation to other sites (needs the network).
	$(BIN)/python -m sphinx -q -E -b linkcheck docs '$(BUILD)/docs/links'

.PHONY: format
format: $(VENV)/.dependencies ## Format Rust and Python.
	cargo fmt
	cd tests/fuzz && cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: profile
profile: $(VENV)/.dependencies ## Train the profile that release builds are optimised by (needs llvm-profdata; 2 minutes).
	$(CARGO_PYTHON) $(BIN)/python .ci/install.py --counting '$(BUILD)/counting-$(TAG)'
	PYTHONPATH='$(abspath $(BUILD))/counting-$(TAG)' $(BIN)/python benches/training.py

.PHONY: bench
bench: $(READY) ## Measure against other servers (about 50 minutes; BENCH=--quick to see that it runs).
	$(BIN)/python benches/run.py $(BENCH)

.PHONY: gauge
gauge: $(READY) ## Count the instructions of a request in ten rows and compare them with a file (needs valgrind; takes BENCH).
	$(BIN)/python benches/instructions.py $(BENCH)

.PHONY: bench-cooperation
bench-cooperation: $(READY) ## Measure what waiting costs between coroutines, ours and gevent's (takes BENCH too).
	$(BIN)/python benches/cooperation.py $(BENCH)

.PHONY: bench-backends
bench-backends: $(READY) ## Measure requests that wait for Redis and a backend (needs redis-server; takes BENCH too).
	$(BIN)/python benches/backends.py $(BENCH)

.PHONY: bench-websocket
bench-websocket: $(READY) ## Measure WebSockets, ours and others' (takes BENCH too).
	$(BIN)/python benches/websocket.py $(BENCH)

.PHONY: bench-chat
bench-chat: $(READY) ## Measure the chat: 50,000 WebSockets in two workers, 1,000 joins (takes BENCH too).
	$(BIN)/python benches/chat.py $(BENCH)

.PHONY: bench-sticky
bench-sticky: $(READY) ## Check every event of 200 clients of Flask-SocketIO while workers are replaced (takes BENCH too).
	$(BIN)/python benches/sticky.py $(BENCH)

.PHONY: bench-gunicorn
bench-gunicorn: $(READY) ## Measure what Gunicorn adds, and two workers compared with one (takes BENCH too).
	$(BIN)/python benches/gunicorn_worker.py $(BENCH)

.PHONY: bench-service
bench-service: $(READY) ## Measure services with several workers: start, waits, spread, scaling, probes (takes BENCH too).
	$(BIN)/python benches/service.py $(BENCH)

.PHONY: soak-restarts
soak-restarts: $(READY) ## Recycle, reload and upgrade a service under load; no request may fail (SOAK=--quick: a minute).
	$(BIN)/python benches/restarts.py $(SOAK)

.PHONY: soak-memory
soak-memory: $(READY) ## Serve ten million requests; the memory may grow by 1 MB at most (takes BENCH too).
	$(BIN)/python benches/many_requests.py $(BENCH)

.PHONY: bench-held
bench-held: $(READY) ## Measure held answers, also with clients in another network namespace (root; takes BENCH too).
	$(BIN)/python benches/held.py $(BENCH)

.PHONY: fuzz
fuzz: ## Fuzz HTTP, WebSocket and crews, each target for a minute (FUZZ="--seconds 600 --jobs 2 --target head").
	@'$(INTERPRETER)' tests/fuzz/fuzz.py --build '$(BUILD)' $(FUZZ)

.PHONY: wheel
wheel: $(VENV)/.dependencies ## Build the wheel into dist/.
	rm -rf build python/rmeinheld.egg-info
	$(CARGO_PYTHON) $(BIN)/pyproject-build --no-isolation --wheel

.PHONY: sdist
sdist: $(VENV)/.dependencies ## Build the source distribution into dist/.
	rm -rf build python/rmeinheld.egg-info
	$(BIN)/pyproject-build --no-isolation --sdist

.PHONY: clean
clean: ## Remove everything that was built.
	rm -rf .build build dist target python/rmeinheld.egg-info .mypy_cache .ruff_cache .pytest_cache
	find python gunicorn_worker tests benches examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment belongs to one interpreter. The file changes only when that does.
$(VENV)/.interpreter: FORCE
	@if ! [ -x $(BIN)/python ] || [ "$$(cat $@ 2>/dev/null)" != '$(INTERPRETER)' ]; then \
		echo "Making $(VENV) with $(INTERPRETER)"; \
		rm -rf $(VENV) && '$(INTERPRETER)' -m venv $(VENV) && echo '$(INTERPRETER)' > $@; \
	fi

# Dependency groups need pip 25.1.
$(VENV)/.build-tools: $(VENV)/.interpreter pyproject.toml .ci/constraints.txt
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --prefer-binary --constraint .ci/constraints.txt --group build --group demo
	@touch $@

$(VENV)/.dependencies: $(VENV)/.build-tools
	$(BIN)/python -m pip install --quiet --prefer-binary --constraint .ci/constraints.txt --group test --group lint
	@touch $@

$(VENV)/.docs: $(VENV)/.dependencies
	$(BIN)/python -m pip install --quiet --prefer-binary --constraint .ci/constraints.txt --group docs
	@touch $@

# The names of the sources, so that one more or one less counts as a change. The times of their directories also change
# when pip or Python writes egg-info or __pycache__, and an installation while tests run takes the package from them.
$(VENV)/.sources: $(VENV)/.interpreter FORCE
	@printf '%s\n' $(PACKAGE_SOURCES) | cmp --quiet - $@ || printf '%s\n' $(PACKAGE_SOURCES) > $@

# Not in isolation, where cargo would see a new path of Python at every build and start anew.
$(VENV)/.installed: $(VENV)/.build-tools $(VENV)/.sources $(PACKAGE_SOURCES)
	$(CARGO_PYTHON) $(BIN)/python .ci/install.py
	@touch $@

# The environment of the suites of others, apart from that of the tests.
$(SUITES_VENV)/.dependencies: $(VENV)/.interpreter pyproject.toml .ci/constraints.txt
	rm -rf $(SUITES_VENV) && '$(INTERPRETER)' -m venv $(SUITES_VENV)
	$(SUITES_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(SUITES_VENV)/bin/python -m pip install --quiet --prefer-binary --constraint .ci/constraints.txt --group suites
	@touch $@

$(SUITES_VENV)/.installed: $(SUITES_VENV)/.dependencies $(VENV)/.installed
	$(CARGO_PYTHON) $(BIN)/python .ci/install.py --wheel $(SUITES_VENV)/wheel
	$(SUITES_VENV)/bin/python -m pip install --quiet --no-deps --force-reinstall $(SUITES_VENV)/wheel/*.whl
	@touch $@

.PHONY: FORCE
FORCE:
