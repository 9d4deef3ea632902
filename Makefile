# The front door. `make demo` and `make test` work on a bare machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Workers share the cores; one torch thread each, or they wait for one another. A file is one worker's: its fixtures train
# and run whole pages (groups by mark are lost between pytest 9.2 and xdist 3.8).
WORKERS ?= 2
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| (echo "physdiff needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..." && exit 2)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

# Other libraries to check against, without their dependencies.
PEERS := $(VENV)/.peers

$(PEERS): $(READY) tests/peers/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/requirements.txt
	@touch $(PEERS)

.PHONY: help setup demo test test-all mutants lint docs bench clean

help: ## What can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv and install everything

demo: $(READY) ## Simulate, train, sample, score, report: the whole job in five minutes on two cores
	$(BIN)/physdiff demo

test: $(READY) ## The tests, in minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-all: $(PEERS) ## All tests: slow ones, planted errors, and against other libraries too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'slow or peers or (not slow and not peers)'

mutants: $(READY) ## Plant wrong maths, one line at a time; every one must be caught
	OMP_NUM_THREADS=1 $(BIN)/python tests/power/mutants.py

lint: $(READY) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(READY) ## HTML pages in docs/_build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -W -q docs docs/_build

bench: $(PEERS) ## Measurements beside other libraries, of training and of cost; hours
	$(BIN)/python -m experiments.benchmarks

clean: ## Remove what was built, not data or runs
	rm -rf $(VENV) docs/_build docs/generated .pytest_cache .ruff_cache
