# `make demo` and `make test` are all a new clone needs; both install .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.slipway-installed
# The theme's advertisement for its successor would be the only warning.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.PHONY: help install demo test test-full check docs format bench clean

help:
	@echo "make demo       the whole loop, start to end (under 6 minutes on 2 cores)"
	@echo "make test       all tests at reduced repetition counts (13 to 17 minutes on 2 cores)"
	@echo "make test-full  the repetition counts that the promises state"
	@echo "make check      format, lint, types, layers, documentation"
	@echo "make docs       the documentation as a site, in site/"
	@echo "make bench      list benchmarks; make bench NAME=deploy_latency runs one"
	@echo "make install    make .venv (the other targets do this by themselves)"
	@echo "make clean      remove .venv, runs/demo, builds and caches; your own runs stay"

install: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Slipway needs Python 3.11 or newer: make install PYTHON=python3.12"; rm -rf $(VENV); exit 2; }
	@echo "installing Slipway and what it needs into $(VENV): once, a few minutes and some 3 GB"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: install
	$(BIN)/slipway demo --out runs/demo

# Three processes for two cores: tests wait for processes that wait for one another. All of tests/integration runs in one of
# them, for its costly fixtures (tests/conftest.py).
test: install
	$(BIN)/python -m pytest -q -m "not full" -n 3

test-full: install
	$(BIN)/python -m pytest -q -n 3

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS)

docs: install
	$(MKDOCS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
ifdef NAME
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)
else
	@echo "Benchmarks (make bench NAME=<name> ARGS='--quick'):"
	@$(BIN)/python -m benchmarks
endif

clean:
	rm -rf $(VENV) runs/demo build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
