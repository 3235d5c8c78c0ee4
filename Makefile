# make forecast: set up and run the embedded default.  make test: set up and pass all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# of which run `make report` is
PROFILE ?= local
STAMP := $(VENV)/.installed
# the executor of the profile coiled-gpu, a package of its own
PLUGIN := plugins/snakemake-executor-plugin-coiled
COORDINATOR_STAMP := $(VENV)/.installed-coordinator
TEST_STAMP := $(VENV)/.installed-test
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# a notice of mkdocs-material about other programs, in each build
export NO_MKDOCS_2_WARNING = 1

.DEFAULT_GOAL := help
.PHONY: help install install-coordinator install-test newest lock forecast test test-long lint format docs config-docs rule-graph plan report clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-19s %s\n", $$1, $$2}'

install: $(STAMP) ## the environment, in .venv

$(STAMP): $(COORDINATOR_STAMP) requirements/install.txt requirements/torch.txt $(wildcard envs/overlays/*.lock)
	PYTHON="$(PYTHON)" .ci/install requirements/install.txt requirements/torch.txt
	$(BIN)/aifs-ensemble environments --overlays
	touch $(STAMP)

install-coordinator: $(COORDINATOR_STAMP) ## what a machine needs that only rents others: no torch, no products

$(COORDINATOR_STAMP): requirements/coordinator.txt pyproject.toml $(PLUGIN)/pyproject.toml
	PYTHON="$(PYTHON)" .ci/install requirements/coordinator.txt --editable . --editable $(PLUGIN)
	touch $(COORDINATOR_STAMP)

install-test: $(TEST_STAMP) ## the same as install with what tests and linters need

$(TEST_STAMP): $(STAMP) requirements/test.txt
	PYTHON="$(PYTHON)" .ci/install requirements/test.txt
	touch $(TEST_STAMP)

lock: ## requirements/*.txt from pyproject.toml; versions stay where they can (with UPGRADE=--upgrade: the newest)
	uv=$$(PYTHON="$(PYTHON)" .ci/install --uv) && \
	compile="$$uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate $(UPGRADE)" && \
	ours="$$compile --no-emit-package torch --no-emit-package pip pyproject.toml" && \
	export UV_CUSTOM_COMPILE_COMMAND="make lock" && \
	$$ours --extra test --output-file requirements/test.txt && \
	$$ours --constraint requirements/test.txt --extra run --extra products --output-file requirements/install.txt && \
	$$ours --constraint requirements/test.txt --output-file requirements/coordinator.txt && \
	grep -o 'torch==[0-9.]*' pyproject.toml | \
	$$compile --no-config --constraint requirements/test.txt - --output-file requirements/torch.txt

newest: ## the environment with the newest versions that pyproject.toml allows (CI, every week)
	PYTHON="$(PYTHON)" .ci/install
	$(BIN)/pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test]" --editable $(PLUGIN)
	$(BIN)/aifs-ensemble environments --overlays
	touch $(COORDINATOR_STAMP) $(STAMP) $(TEST_STAMP)

forecast: install ## run the embedded default, 4 members x 72 h, into results/
	$(BIN)/snakemake --profile local

test: install-test ## all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
	AIFS_TEST_MODEL=demo-v2 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "models and not long"

test-long: install-test ## the campaigns that take long
	$(BIN)/python -m pytest -m long
	AIFS_TEST_MODEL=demo-v2 $(BIN)/python -m pytest -m "models and long"

lint: install-test ## format, lint, types, imports between rooms, forms, workflow lint, the docs' links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/problem.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format --default-filetype yaml CITATION.cff
	$(BIN)/snakemake --lint
	$(BIN)/mkdocs build --quiet

format: install-test ## format everything
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile rules

docs: install-test ## the documentation as a site, in site/index.html
	$(BIN)/mkdocs build --quiet

config-docs: install ## the configuration's schema and tables of keys, from the library
	$(BIN)/python -m aifs_ensemble.common.config.schema --write

rule-graph: install ## docs/images/rules.svg, by graphviz, from a checkout without results
	$(BIN)/snakemake --profile local --rulegraph | dot -Tsvg > docs/images/rules.svg

plan: install ## what the operational run would do and cost
	$(BIN)/aifs-ensemble plan --profile coiled-gpu

report: install ## report.html of the last run; of another profile: PROFILE=coiled-gpu CONFIG="its files"
	$(BIN)/snakemake --profile $(PROFILE) report $(if $(CONFIG),--configfile $(CONFIG) )--report report.html \
		--report-stylesheet report/theme.css --report-after-run

clean: ## remove what runs made (not the environment, nor the record of rented machines)
	rm -rf scratch results logs site report.html
	test ! -d .snakemake || find .snakemake -mindepth 1 -maxdepth 1 ! -name rented -exec rm -rf {} +
