# make forecast: set up and run the embedded default.  make test: set up and pass all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install install-test newest lock forecast test test-long lint format config-docs plan report clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

install: $(STAMP) ## the environment, in .venv

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $(STAMP)

install-test: $(TEST_STAMP) ## the same with what tests and linters need

$(TEST_STAMP): $(STAMP) requirements-test.txt
	$(BIN)/pip install --quiet --requirement requirements.txt --requirement requirements-test.txt
	touch $(TEST_STAMP)

lock: install-test ## requirements.txt and requirements-test.txt from what is installed
	$(BIN)/pip freeze --exclude-editable | $(BIN)/python benchmarks/split_lock.py requirements.in requirements.txt requirements-test.txt

newest: ## the environment with the newest versions that requirements.in allows (CI, every week)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade --upgrade-strategy eager --requirement requirements.in --requirement requirements-test.in
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $(STAMP) $(TEST_STAMP)

forecast: install ## run the embedded default, 4 members x 72 h, into results/
	$(BIN)/snakemake --profile local

test: install-test ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: install-test ## the campaigns that take long
	$(BIN)/python -m pytest -m long

lint: install-test ## format, lint, types, imports between rooms, workflow lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: install-test ## format everything
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile rules

config-docs: install ## the configuration's schema and tables of keys, from the library
	$(BIN)/python -m aifs_ensemble.common.config.schema --write

plan: install ## what the operational run would do and cost
	$(BIN)/aifs-ensemble plan --profile coiled-gpu

report: install ## report.html of the last run
	$(BIN)/snakemake --profile local report --report report.html --report-after-run

clean: ## remove what runs made (not the environment, nor the record of rented machines)
	rm -rf scratch results logs report.html
	test ! -d .snakemake || find .snakemake -mindepth 1 -maxdepth 1 ! -name rented -exec rm -rf {} +
