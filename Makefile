# Every target works in a fresh clone: it creates .venv and installs what it needs.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-lowest check format bench clean

help: ## Print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# PyTorch's small wheels for CPUs are not on PyPI: TORCH=cpu.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
define INSTALL_TORCH_CPU
	$(BIN)/pip install --quiet --disable-pip-version-check --index-url $(TORCH_CPU_INDEX) torch torchvision || \
	  { echo "TORCH=cpu needs $(TORCH_CPU_INDEX), which is not reached from here; without it PyPI's wheels are installed" >&2; exit 1; }
endef

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(if $(filter cpu,$(TORCH)),$(INSTALL_TORCH_CPU))
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[worker,dev]'
	@touch $@

install: $(STAMP) ## Create .venv and install everything into it; TORCH=cpu: PyTorch for CPUs alone

demo: $(STAMP) ## Train HyperFL on digits: a coordinator, a worker with 4 clients, 10 rounds
	$(BIN)/hyperfl demo --dataset digits --clients 4 --rounds 10

# The processes of a run share the cores already, and torch's threads spin while they wait. Each of
# the hundreds of processes that tests start would compile every module anew if none were kept.
test test-slow test-lowest: export OMP_NUM_THREADS := 1
test test-slow test-lowest: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest -m 'not slow and not benchmark' --durations=10 \
	  --numprocesses auto --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## Run the slow tests: crashes, two coordinators, long simulations
	$(BIN)/python -m pytest -m slow --durations=10 \
	  --numprocesses auto --dist loadfile --no-loadscope-reorder

# The oldest versions that pyproject.toml allows, of what it names; the newest of what those need.
$(LOWEST_STAMP): $(STAMP)
	$(PYTHON) -m venv $(LOWEST)
	$(BIN)/uv pip compile --quiet --upgrade --python $(BIN)/python --resolution lowest-direct \
	  --extra worker --extra dev --output-file $(LOWEST)/requirements.txt pyproject.toml
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -r $(LOWEST)/requirements.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Old packages use what new ones call deprecated.
test-lowest: $(LOWEST_STAMP) ## Run unit and integration tests with the oldest versions allowed
	$(LOWEST)/bin/python -m pytest -m 'not slow and not benchmark' tests/unit tests/integration \
	  -W ignore::DeprecationWarning -W ignore::FutureWarning \
	  --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(STAMP) ## Lint, types, architecture, migrations, licences, Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/write_settings.py --check
	$(BIN)/python dependencies/check_licences.py
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

clean: ## Remove .venv, .venv-lowest and caches
	rm -rf $(VENV) $(LOWEST) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
