# The two commands that matter: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
DATA ?= .interlock
SEED ?= 1
T ?= tests
BIN := $(VENV)/bin
APP_STAMP := $(VENV)/.app-stamp
DEV_STAMP := $(VENV)/.dev-stamp
NATIVE := $(shell find src -name '_native_*.[hp]*')
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --only-binary :all: --no-header --no-emit-index-url
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo up test check fix sim bench docs lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(APP_STAMP) ## boot everything, run the tour, keep serving (DEMO_EXIT=1 ends after the tour)
	@$(BIN)/interlock demo --data "$(DATA)" --port $(PORT)

up: $(APP_STAMP) ## boot the platform and serve
	@$(BIN)/interlock up --data "$(DATA)" --port $(PORT)

test: $(DEV_STAMP) ## run the tests, or T=path of them
	@$(BIN)/python -m tests.support.provision
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --durations=25 --durations-min=3 $(T)

check: $(DEV_STAMP) ## format, lint, types, layers, dependencies, spelling
	@$(BIN)/ruff format --check src tests benchmarks examples
	@$(BIN)/ruff check src tests benchmarks examples
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/deptry src
	@$(BIN)/codespell src tests benchmarks examples docs *.md

fix: $(DEV_STAMP) ## format and mend what the linter can
	@$(BIN)/ruff format src tests benchmarks examples
	@$(BIN)/ruff check --fix src tests benchmarks examples

sim: $(DEV_STAMP) ## simulate the cores, or CORE=name; SEED=n repeats one seed, SEEDS=n sets how many
	@$(BIN)/python -m tests.sim --seed $(SEED) --seeds $(or $(SEEDS),2000) $(CORE)

bench: $(DEV_STAMP) ## run every benchmark, or B=name
	@$(BIN)/python -m benchmarks $(B)

docs: $(DEV_STAMP) ## write the generated pages of docs/reference
	@$(BIN)/python -m tests.support.reference

lock: $(DEV_STAMP) ## resolve the pinned, hashed requirements again
	@$(BIN)/$(LOCK) requirements/bootstrap.in -o requirements/bootstrap.txt
	@$(BIN)/$(LOCK) --overrides requirements/overrides.txt pyproject.toml requirements/app.in -o requirements/app.txt
	@$(BIN)/$(LOCK) --overrides requirements/overrides.txt pyproject.toml requirements/app.in requirements/dev.in -c requirements/app.txt -o requirements/dev.txt

clean: ## remove the virtual environment and the default data directory
	@rm -rf $(VENV) $(DATA)

$(BIN)/uv: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python has no ensurepip; install the venv package of your distribution (Debian: apt-get install python3-venv)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --require-hashes --only-binary :all: -r requirements/bootstrap.txt
	@touch $@

$(APP_STAMP): $(BIN)/uv requirements/app.txt pyproject.toml $(NATIVE)
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes --only-binary :all: -r requirements/app.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): $(APP_STAMP) requirements/dev.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes --only-binary :all: -r requirements/dev.txt
	@touch $@
