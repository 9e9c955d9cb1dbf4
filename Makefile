# make audit      the environment, the package, the default audit, and where its report is
# make test       the environment and the tests (make test-slow: those longer than a few seconds)
# make lint       formatting, lint, types, and the one-way imports
# make bench      side by side with the peers
# make peers      the peers alone, with which the tests compare where they are
# make docs       the pages of docs/ that are made from the source
# Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
MAKEFLAGS += --no-print-directory

.PHONY: audit test test-slow lint format bench peers docs clean

audit: $(VENV)/.installed
	@$(BIN)/faultlight audit

# The nets of the tests are too small for several threads; several processes share the work instead.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(VENV)/.installed-dev
	@$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev
	@$(PYTEST) -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
# Undefined names: shapes in quotes keep ruff from them in src, where mypy looks.
	$(BIN)/ruff check --isolated --select F821 benchmarks examples scripts tests
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	@$(BIN)/python -m benchmarks.pgd

peers: $(VENV)/.installed-bench

docs: $(VENV)/.installed
	@$(BIN)/python scripts/docs.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# The package is installed in place, so only a change of what it depends on asks for another install.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Faultlight needs Python 3.11 or newer, this is " + sys.version.split()[0] + \
	  "; name another with PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "Installing Faultlight into $(VENV) (some minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) (once)"
	@$(PIP_INSTALL) -e '.[dev,parquet,attribution,maps,search,tensorboard]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev $(wildcard benchmarks/requirements.txt)
	@if [ -f benchmarks/requirements.txt ]; then $(PIP_INSTALL) --no-deps -r benchmarks/requirements.txt; fi
	@touch $@
