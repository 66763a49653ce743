# Set-up and daily work. `make demo` and `make test` need nothing but Python >= 3.11 with venv, and make.

# The first interpreter that really runs, is new enough and can make an environment (a version manager may put
# commands on the path that only print an error). Name another with: make PYTHON=/path/to/python test
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$python; break; fi; done)
UV ?= $(shell command -v uv 2>/dev/null)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
ARGS ?=

# Data sets prepared beforehand: a folder shared/tfds beside the checkout is used when present.
ifndef TFDS_DATA_DIR
ifneq ($(wildcard ../shared/tfds/.),)
export TFDS_DATA_DIR := $(abspath ../shared/tfds)
endif
endif

ifneq ($(UV),)
MAKE_VENV = $(UV) venv --quiet --python $(PYTHON) $(VENV)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt
else
MAKE_VENV = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
endif

.DEFAULT_GOAL := help
.PHONY: help env env-dev demo test test-full lint types format bench bench-light constraints clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*##/:/' | awk -F': +' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamps make the environment anew whenever what it is made from changes.
$(VENV)/.stamp-run: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv was found. On Debian: apt install python3-venv. Or name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Installing pbjax into $(VENV) with $(PYTHON) and $(if $(UV),uv,pip): one to three minutes the first time"
	@rm -rf $(VENV)
	@$(MAKE_VENV)
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	@echo "Adding what the tests, the linter and the type checker need"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

env: $(VENV)/.stamp-run  ## the environment to run experiments
env-dev: $(VENV)/.stamp-dev  ## the same with the tools for tests, lint and types

demo: $(VENV)/.stamp-run  ## install, then run the main experiment on the embedded digits
	$(BIN)/python experiments/gibbs_gap.py --config digits $(ARGS)

# Most of the time goes into compiling tiny programs. XLA's older code generator for CPUs takes a third off that; it is
# used here only, and `make test-full` and every process that a test starts have the compiler's defaults.
FAST_COMPILATION := --xla_cpu_use_fusion_emitters=false

test: $(VENV)/.stamp-dev  ## install, then run the tests (ARGS='tests/bounds -k inverse' for some of them)
	XLA_FLAGS="$$XLA_FLAGS $(FAST_COMPILATION)" $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-full: $(VENV)/.stamp-dev  ## the tests with the slow ones
	$(BIN)/python -m pytest -n $(WORKERS) --run-slow $(ARGS)

lint: $(VENV)/.stamp-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev  ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.stamp-dev  ## let ruff sort imports, mend what it can and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The peers live in an environment of their own: none of them is a dependency of pbjax. They come after pbjax and without
# its constraints, which pin versions of shared dependencies that PyTorch does not take.
BENCH_INSTALL = $(subst $(BIN),$(VENV)-bench/bin,$(INSTALL))
$(VENV)-bench/.stamp: pyproject.toml constraints.txt $(wildcard benchmarks/requirements-*.txt)
	@echo "Installing pbjax and the peers of its benchmarks into $(VENV)-bench"
	@rm -rf $(VENV)-bench
	@$(subst $(VENV),$(VENV)-bench,$(MAKE_VENV))
	@$(BENCH_INSTALL) --editable .
	@$(subst --constraint constraints.txt,,$(BENCH_INSTALL)) $(patsubst %,--requirement %,$(wildcard benchmarks/requirements-*.txt))
	@touch $@

bench: $(VENV)-bench/.stamp  ## install with its peers, measure everything, write docs/results/benchmarks.md
	$(VENV)-bench/bin/python -m benchmarks $(ARGS)

bench-light: $(VENV)/.stamp-dev  ## the counts that must not get worse, and four quick benchmarks once
	$(BIN)/python -m benchmarks.counts --check
	$(BIN)/python -m benchmarks --quick --only bounds optim_step seeds convolution

constraints:  ## pin the newest compatible versions for all Pythons (needs uv)
	@test -n "$(UV)" || { echo "make constraints needs uv on the path" >&2; exit 2; }
	$(UV) pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

clean:  ## remove the environment, build products and caches; runs/ stays
	rm -rf $(VENV) $(VENV)-bench build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
