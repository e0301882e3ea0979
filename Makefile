# setup: everything a fresh clone needs    demo: compile and serve the demo models    test: every check, as CI runs them

.PHONY: setup build demo test lint types test-python test-web test-browser format lock clean
.DEFAULT_GOAL := help

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
PAGE := web/dist/page.js
# A process a core; the tests of a file share what they compile. In the order given: what takes long first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
PAGE_SOURCES := $(shell find web/src -type f) $(wildcard web/*.config.ts) web/tsconfig.json

.PHONY: help
help:
	@head -1 Makefile

setup: $(PYTHON_READY) $(PAGE) $(MACHINE_READY) $(TOKENIZERS_READY) $(ISA_READY)
	@$(BIN)/python -m tests.smollm2 >/dev/null || { echo "setup: tests on a published model will be skipped" >&2; test -z "$$CI"; }

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

# Chrome's shader compiler, for the tests of what kernels become.
$(ISA_READY): tests/device/isa/package.json tests/device/isa/package-lock.json
	cd tests/device/isa && npm ci --no-audit --no-fund
	@touch $@

$(PAGE): $(NODE_READY) $(PAGE_SOURCES)
	cd web && npm run --silent build
	@touch $@

# Drivers and browsers. On CI all of them have to be there; elsewhere tests are skipped without them.
$(MACHINE_READY): $(PYTHON_READY) tests/machine.py tests/adapter.py tests/chromium.py
	@if $(BIN)/python -m tests.machine --install; then touch $@; else case "$(CI)" in 1|true) exit 1;; esac; fi

demo: $(PYTHON_READY) $(PAGE)
	@$(BIN)/wisp demo --host $(HOST) --port $(PORT)

test: setup lint types test-python test-web test-browser

lint: $(PYTHON_READY) $(NODE_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd web && npm run --silent lint

types: $(PYTHON_READY) $(NODE_READY)
	$(BIN)/mypy
	cd web && npm run --silent types

test-python: $(PYTHON_READY) $(TOKENIZERS_READY) $(ISA_READY)
	$(BIN)/pytest $(PARALLEL) tests/device tests/pure

test-web: $(NODE_READY)
	cd web && npm test

test-browser: $(PYTHON_READY) $(PAGE)
	$(BIN)/pytest $(PARALLEL) tests/browser

format: $(PYTHON_READY) $(NODE_READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	cd web && npm run --silent format

# Writes what is installed now, without local version labels such as +cpu.
lock: $(PYTHON_READY)
	@(echo "# Exact versions of everything that setup installs (constraints of pip). Update: make lock"; \
	  $(BIN)/pip list --format=freeze --exclude wisp --exclude pip | sed 's/+.*//') > .ci/requirements.txt

clean:
	rm -rf $(VENV) web/node_modules tests/tokenizers/node_modules tests/device/isa/node_modules web/dist artifacts .pytest_cache .ruff_cache .mypy_cache *.egg-info
