# `make demo` and `make test` do all the set-up themselves: Python 3.11 or newer, make and a C compiler suffice.
#   make PYTHON=python3.12 demo     another interpreter for the environment
#   make TORCH=torch==2.12.0 demo   another torch (then without the pins of constraints.txt)
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIN := $(shell sed -n '/^torch==/p' constraints.txt)
TORCH ?= $(PIN)
CONSTRAINTS := $(if $(filter $(PIN),$(TORCH)),-c constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)
DEMO := runs/demo
WHEEL := build/wheel-test
CODE := src experiments tests benchmarks examples docs

# One thread a process: the tests already run in WORKERS processes.
test test-slow test-interop layers docs: export OMP_NUM_THREADS := 1

.PHONY: help demo test test-slow test-interop check format format-check lint types layers docs wheel-test clean

help:
	@echo "make demo       evolve networks on letters rendered here, and write a report"
	@echo "make test       run the tests"
	@echo "make test-slow  run the tests that take longer than a few seconds"
	@echo "make test-interop  run the tests against skorch, loggers, Optuna, Ray, notebooks, the live page and the hub"
	@echo "make check      everything that has to pass: format, lint, types, layers, tests, docs, wheel"
	@echo "make docs       build the documentation into site/, and run its code and the examples"
	@echo "make format     format the code"

# Set-up. torch comes first and alone, at the pinned release, so that nothing else decides which build is taken.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("graftwork needs Python 3.11 or newer, but $(PYTHON) is %d.%d: try make PYTHON=python3.12 demo" % (v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) '$(TORCH)'
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.run
	rm -rf $(DEMO)
	$(BIN)/graftwork search --data letters --selection pareto --budget 0.006PFLOP --control --seed 0 --out $(DEMO)
	@echo "The report is at $(CURDIR)/$(DEMO)/report.html"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow -n $(WORKERS) --dist worksteal

# Heavy packages, installed for this alone; `make test` runs these tests too from then on.
$(VENV)/.interop: $(VENV)/.dev
	$(PIP) --editable '.[interop]'
	@touch $@

test-interop: $(VENV)/.interop
	$(BIN)/python -m tests.interop --json results/interop.json

check: format-check lint types layers test docs wheel-test
	@echo "make check: everything passed"

format: $(VENV)/.dev
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

format-check: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

# No --quiet: it silences the warnings that --strict counts. Then what pages and examples show is run as it stands.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site
	$(BIN)/python -m pytest -q -m "docs and not slow" -n $(WORKERS) --dist worksteal

# The sdist, the wheel made from it, and the wheel alone in a fresh environment, away from this folder.
wheel-test: $(VENV)/.dev
	rm -rf $(WHEEL)
	$(BIN)/python -m build --outdir $(WHEEL)/dist . > /dev/null
	$(BIN)/python -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) '$(TORCH)'
	$(WHEEL)/venv/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) $(WHEEL)/dist/*.whl
	cd $(WHEEL) && venv/bin/graftwork --version && venv/bin/python -I ../../tests/check_installed.py

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
