# Everything runs in .venv, which is made on first use and brought up to date when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench

# pyright's wrapper asks for its newest version at each start unless told not to.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# mkdocs-material announces its successor at each build; what is built here is not affected.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test cover check format docs bench clean

help:  ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)$$/make \1\t\2/p' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(BENCH_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

demo: $(STAMP)  ## Follow 842 real flights through a crash and back in time (arguments: ARGS=--all)
	$(BIN)/python examples/flight_board.py $(ARGS)

test: $(STAMP)  ## Run every test (arguments: ARGS='-k journal')
	$(BIN)/python -m pytest -n auto $(ARGS)

cover: $(STAMP)  ## Run every test and require 95 % branch coverage
	$(BIN)/python -m pytest -n auto --cov --cov-branch --cov-fail-under=95 $(ARGS)

check: $(STAMP)  ## Lint, formatting, types, completeness of types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes reactstate --ignoreexternal
	$(BIN)/lint-imports

format: $(STAMP)  ## Format, and repair what the linter can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## Build the documentation into site/, strictly
	$(BIN)/mkdocs build --strict

bench: $(BENCH_STAMP)  ## Measure against the goals and the peers
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:  ## Remove .venv and everything that was built
	rm -rf $(VENV) site build dist htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
