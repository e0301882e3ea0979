# setup: everything a fresh clone needs    demo: compile and serve the demo models    test: every check, as CI runs them

.PHONY: setup build demo test lint types test-python test-web test-browser format wheel lock clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR: # a page that was built in part is no page

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
HOST ?= 127.0.0.1

# Each is newer than what it was made from, so that a second `make setup` has nothing to do.
PYTHON_READY := $(VENV)/.ready
MACHINE_READY := $(VENV)/.machine
NODE_READY := web/node_modules/.ready
TOKENIZERS_READY := tests/tokenizers/node_modules/.ready
ISA_READY := tests/device/isa/node_modules/.ready
NEXT_READY := tests/next/node_modules/.ready
MODEL_READY := $(VENV)/.model
PAGE := web/dist/page.js
# A process a core; the tests of a file share what they compile. In the order given: what takes long first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
LONGEST := $(addprefix tests/,pure/test_recipes.py device/test_parity.py device/test_smollm2.py)
# What waits for nothing lets those in browsers go first, which wait for timers and processes: with --jobs=2 they do so
# beside each other, and neither sees a busy machine.
LATER := nice -n 19
LONGEST_IN_BROWSERS := $(addprefix tests/browser/,test_parity.py test_download.py test_page.py)
PAGE_SOURCES := $(shell find web/src -type f) $(wildcard web/*.config.ts) web/tsconfig.json

.PHONY: help
help:
	@head -1 Makefile

setup: $(PYTHON_READY) $(PAGE) $(MACHINE_READY) $(TOKENIZERS_READY) $(ISA_READY) $(NEXT_READY) $(MODEL_READY)

build: $(PAGE)

$(PYTHON_READY): pyproject.toml .ci/requirements.txt
	.ci/python-environment $(VENV)
	@touch $@

$(NODE_READY): web/package.json web/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || \
		{ echo "setup: Node 20 or later is needed" >&2; exit 1; }
	cd web && npm ci --no-audit --no-fund
	@touch $@

# Published tokenizers, for the tests alone.
$(TOKENIZERS_READY): tests/tokenizers/package.json tests/tokenizers/package-lock.json
	cd tests/tokenizers && npm ci --no-audit --no-fund
	@touch $@

# Next.js, for the test of its example.
$(NEXT_READY): tests/next/package.json tests/next/package-lock.json
	cd tests/next && npm ci --no-audit --no-fund --ignore-scripts
	@touch $@

# Chrome's shader compiler, for the tests of what kernels become.
$(ISA_READY): tests/device/isa/package.json tests/device/isa/package-lock.json
	cd tests/device/isa && npm ci --no-audit --no-fund
	@touch $@

$(PAGE): $(NODE_READY) $(PAGE_SOURCES)
	cd web && npm run --silent build
	@touch $@

# The published model of the demo and of the tests.
$(MODEL_READY): $(PYTHON_READY)
	@if $(BIN)/python -m tests.smollm2 >/dev/null; then touch $@; \
		else echo "setup: tests on a published model will be skipped" >&2; test -z "$$CI"; fi

# Drivers and browsers. On CI all of them have to be there; elsewhere tests are skipped without them.
$(MACHINE_READY): $(PYTHON_READY) tests/machine.py tests/adapter.py tests/chromium.py
	@if $(BIN)/python -m tests.machine --install; then touch $@; else case "$(CI)" in 1|true) exit 1;; esac; fi

demo: $(PYTHON_READY) $(PAGE)
	@$(BIN)/wisp demo --host $(HOST) --port $(PORT)

test: setup test-browser lint types test-web test-python

lint: $(PYTHON_READY) $(PAGE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd web && $(LATER) npm run --silent lint

types: $(PYTHON_READY) $(PAGE)
	$(LATER) $(BIN)/mypy
	cd web && $(LATER) npm run --silent types

test-python: $(PYTHON_READY) $(PAGE) $(MACHINE_READY) $(MODEL_READY) $(TOKENIZERS_READY) $(ISA_READY)
	$(LATER) $(BIN)/pytest $(PARALLEL) $(LONGEST) tests/device tests/pure

test-web: $(PAGE)
	cd web && $(LATER) npm test

test-browser: $(PYTHON_READY) $(PAGE) $(MACHINE_READY) $(NEXT_READY) $(MODEL_READY)
	$(BIN)/pytest $(PARALLEL) $(LONGEST_IN_BROWSERS) tests/browser

format: $(PYTHON_READY) $(NODE_READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	cd web && npm run --silent format

wheel: $(PYTHON_READY) $(PAGE)
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Writes what is installed now, without local version labels such as +cpu.
lock: $(PYTHON_READY)
	@(echo "# Exact versions of everything that setup installs (constraints of pip). Update: make lock"; \
	  $(BIN)/pip list --format=freeze --exclude wisp --exclude pip | sed 's/+.*//') > .ci/requirements.txt

clean:
	rm -rf $(VENV) web/node_modules tests/tokenizers/node_modules tests/device/isa/node_modules tests/next/node_modules web/dist dist artifacts .pytest_cache .ruff_cache .mypy_cache *.egg-info
