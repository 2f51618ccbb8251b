# Every target works in a fresh clone: it creates .venv and installs what it needs.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format bench clean

help: ## Print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[worker,dev]'
	@touch $@

install: $(STAMP) ## Create .venv and install everything into it

demo: $(STAMP) ## Train HyperFL on digits: a coordinator, a worker with 4 clients, 10 rounds
	$(BIN)/hyperfl demo --dataset digits --clients 4 --rounds 10

# The processes of a run share the cores already, and torch's threads spin while they wait. Each of
# the hundreds of processes that tests start would compile every module anew if none were kept.
test test-slow: export OMP_NUM_THREADS := 1
test test-slow: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest -m 'not slow and not benchmark' --durations=10 \
	  --numprocesses auto --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## Run the slow tests: crashes, two coordinators, long simulations
	$(BIN)/python -m pytest -m slow --durations=10 \
	  --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(STAMP) ## Lint, types, architecture, migrations, Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/write_settings.py --check
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	  $(BIN)/alembic -x url=sqlite:///$$scratch/check.db upgrade head && \
	  $(BIN)/alembic -x url=sqlite:///$$scratch/check.db check
	$(BIN)/hadolint docker/*.Dockerfile

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure training and protocol; DATA_DIR=FOLDER adds rounds on Fashion-MNIST
	$(BIN)/python -m pytest -m benchmark -q tests/benchmarks --record docs/performance.md \
	  $(if $(DATA_DIR),--data-dir $(DATA_DIR))

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
