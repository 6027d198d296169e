# Everything a person or CI runs. `make help` lists it.
# On a machine with only Python 3.11 + pip, uv is installed into .uv/ and the environment into .venv/.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
UV := $(CURDIR)/.uv/bin/uv
UV_VERSION := 0.13.8
RUN := $(UV) run --frozen --no-sync
ARGS ?=
# Three processes for the whole suite; those who run a part of it do not wait for them to start.
SIDE_BY_SIDE := -n 3

# Where it is set, every process compiles the whole program anew: 4 s of CPU before a server answers, instead of 1.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: run
run: install ## Install, load the demo campaign, serve on 127.0.0.1:8091
	@$(RUN) bigmarket demo --serve

.PHONY: cli
cli: install ## Run the command line: make cli ARGS="doctor --json"
	@$(RUN) bigmarket $(ARGS)

.PHONY: test
test: install ## Run every test, or some: make test ARGS="tests/unit -x"; what lacks a tool is skipped, loudly
	@$(RUN) pytest $(or $(ARGS),$(SIDE_BY_SIDE))

.PHONY: lint
lint: install ## Check style, types and layers
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports

.PHONY: format
format: install ## Rewrite the code in the house style
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

.PHONY: bench
bench: install ## Measure everything and write docs/benchmarks.md with charts (15 minutes; ARGS="--quick": 3)
	@$(RUN) python bench/run.py $(ARGS)

.PHONY: bench-scale
bench-scale: install ## The same for growth only, with a million users and twelve million rows (30 minutes)
	@$(RUN) python bench/run.py --parts scale --large $(ARGS)

.PHONY: soak
soak: install ## Draw for ten minutes at 60 % of the peak and watch everything stay flat (ARGS="--minutes 60")
	@$(RUN) python bench/run.py --parts soak --minutes 10 $(ARGS)

.PHONY: faults
faults: install ## Kill servers, worker, MariaDB and RabbitMQ 12 times under 100,000 draws (6 minutes)
	@BIGMARKET_FAULT_DRAWS=100000 BIGMARKET_FAULT_ROUNDS=3 $(RUN) pytest -s tests/faults/test_storm.py $(ARGS)

.PHONY: hooks
hooks: install ## Run `make lint` before every commit
	@$(RUN) pre-commit install

.PHONY: clean
clean: ## Remove the environment and caches; keeps .bigmarket (your data)
	rm -rf .uv .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: install
install: .venv/.installed

# Installing talks on standard error: standard output belongs to the command that is run.
.venv/.installed: pyproject.toml uv.lock $(UV)
	@# The machine's own certificates are tried second: a company's proxy may need them.
	@$(UV) sync --frozen --quiet --python $(PYTHON) >&2 || $(UV) sync --frozen --quiet --python $(PYTHON) --system-certs >&2
	@touch $@

$(UV):
	@echo "Installing uv $(UV_VERSION) into .uv/ ..." >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bigmarket needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .uv >&2
	@.uv/bin/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION) >&2
