# What a newcomer needs: `make demo` and `make test`. Each does its whole set-up in .venv.

PYTHON ?= python3
PROMPT ?= Explain in two sentences what a key-value cache is.
MODEL ?= smollm2-135m-instruct
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-peers clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.cpu ## fetch SmolLM2, build it, stream an answer (PROMPT="..." to ask something else)
	@$(BIN)/genai run $(MODEL) "$$PROMPT"

test: $(VENV)/.dev ## run every test, those with real weights included
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.cpu ## measure prefill and decoding on this machine
	@$(BIN)/genai bench $(MODEL)

bench-peers: $(VENV)/.cpu ## compare with other runtimes on the same weights
	@$(BIN)/python -m benchmarks.side_by_side $(MODEL)

clean: ## remove .venv and what tools have cached here
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# Handed over in the environment and unexpanded, so that quotes and dollar signs in a prompt arrive as they are.
override PROMPT := $(value PROMPT)
export PROMPT

# Compiling ten thousand files of which a few hundred are imported would double the time.
INSTALL = $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --editable

# One stamp for each set of dependencies; pyproject.toml is all that they depend on.
$(VENV)/.cpu: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV), once: a minute or two"
	@$(INSTALL) '.[cpu]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) with the tools for development, once: some minutes"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.cpu

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "this needs Python 3.11 or newer, as python3 or as: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "no virtual environment can be made; on Debian: apt install python3-venv" >&2; exit 2; }
