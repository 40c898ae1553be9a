# What a newcomer needs: `make demo` and `make test`. Each does its whole set-up in .venv.

PYTHON ?= python3
PROMPT ?= Explain in two sentences what a key-value cache is.
MODEL ?= smollm2-135m-instruct
VENV ?= .venv
BIN := $(VENV)/bin
LOCKS := deploy/locks
UV := .venv-lock/bin/uv
ON_ALL_CORES := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal
IN_PAIRS := $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-newest test-oldest lint docs operators lock bench bench-peers clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.cpu ## fetch SmolLM2, build it, stream an answer (PROMPT="..." to ask something else)
	@$(BIN)/genai run $(MODEL) "$$PROMPT"

test: $(VENV)/.dev ## run every test: on all cores those that need no real weights, then, two files at a time, those that do
	@status=0; $(ON_ALL_CORES) -m "not slow" || status=1; $(IN_PAIRS) -m slow || status=1; exit $$status

test-quick: $(VENV)/.dev ## run the tests that need no real weights, on all cores: for the loop while editing
	$(ON_ALL_CORES) -m "not slow and not long"

test-newest: ## run the quick tests on the newest releases that pyproject.toml allows (.venv-newest)
	rm -rf .venv-newest
	$(MAKE) VENV=.venv-newest .venv-newest/.newest
	.venv-newest/bin/python -m pytest -m "not slow"

test-oldest: ## run the quick tests on the oldest releases that pyproject.toml allows (.venv-oldest)
	rm -rf .venv-oldest
	$(MAKE) VENV=.venv-oldest .venv-oldest/.oldest
	.venv-oldest/bin/python -m pytest -m "not slow"

lint: $(VENV)/.dev ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.dev ## write the tables of options into docs/
	@$(BIN)/python -m docs.tables

operators: $(VENV)/.dev ## write what the installed runtime does with each operator into docs/operators.md
	@$(BIN)/python -m docs.operators

bench: $(VENV)/.cpu ## measure prefill and decoding on this machine
	@$(BIN)/genai bench $(MODEL)

bench-peers: $(VENV)/.cpu ## compare with other runtimes on the same weights
	@$(BIN)/python -m benchmarks.side_by_side $(MODEL)

lock: $(UV) ## follow pyproject.toml in the locks (ARGS=--upgrade to move them to the newest releases)
	$(COMPILE) pyproject.toml --extra dev --output-file $(LOCKS)/dev.txt
	$(SMALL) pyproject.toml --extra cpu --output-file $(LOCKS)/cpu.txt
	$(SMALL) pyproject.toml --extra cpu --extra server --extra otel --output-file $(LOCKS)/server-cpu.txt
	$(SMALL) pyproject.toml --extra gpu --extra server --extra otel --output-file $(LOCKS)/server-gpu.txt
	$(SMALL) pyproject.toml --extra cpu --extra server --extra otel --extra ray --output-file $(LOCKS)/server-ray.txt
	echo '$(BACKEND)' | $(SMALL) - --output-file $(LOCKS)/build.txt
	for folder in $(APART); do $(COMPILE) $$folder/requirements.in --output-file $$folder/requirements.txt || exit; done
	for folder in $(NODE); do npm install --silent --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --prefix $$folder || exit; done

clean: ## remove the environments and what tools have cached here
	rm -rf $(VENV) .venv-* tests/clients/.envs .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# Handed over in the environment and unexpanded, so that quotes and dollar signs in a prompt arrive as they are.
override PROMPT := $(value PROMPT)
export PROMPT

# Bytecode is kept even where an image says not to: every process that tests start would compile thousands of modules anew.
unexport PYTHONDONTWRITEBYTECODE

# What was tested is what is installed: the locks name every release and its hashes. Compiling ten thousand files of which
# a few hundred are imported would double the time.
PIP = $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile
LOCKED = $(PIP) --require-hashes --no-deps
ITSELF = $(PIP) --no-deps --no-build-isolation --editable .

# Not in the locks: which build of torch is right is the machine's business (a wheel for the CPU that pip has been pointed
# to, or PyPI's, which brings gigabytes of CUDA libraries and pins them itself). What else torch needs is locked.
TORCH = $(PIP) $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

# uv resolves; to install, pip is enough. The locks hold for every platform and every Python from 3.11 on, with one release of a
# package wherever that is possible; the small ones agree with the big one.
RESOLVE = $(UV) pip compile --quiet --python .venv-lock/bin/python --python-version 3.11 --no-emit-package torch
COMPILE = $(RESOLVE) --universal --fork-strategy fewest --generate-hashes --custom-compile-command "make lock" $(ARGS)
SMALL = $(COMPILE) --constraints $(LOCKS)/dev.txt
BACKEND = $(shell sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml)

# Benchmarks' peers and tests' clients have environments of their own, and locks beside what they want.
APART = $(patsubst %/requirements.in,%,$(wildcard benchmarks/peers/*/requirements.in tests/clients/*/requirements.in))
NODE = $(patsubst %/package.json,%,$(wildcard tests/clients/*/package.json))

# A stamp for each set of dependencies.
$(VENV)/.cpu: pyproject.toml $(LOCKS)/build.txt $(LOCKS)/cpu.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), once: a minute or two"
	@$(LOCKED) -r $(LOCKS)/build.txt -r $(LOCKS)/cpu.txt
	@$(ITSELF)
	@touch $@

$(VENV)/.dev: pyproject.toml $(LOCKS)/build.txt $(LOCKS)/dev.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) with the tools for development, once: some minutes"
	@$(LOCKED) -r $(LOCKS)/build.txt -r $(LOCKS)/dev.txt
	@$(TORCH)
	@$(ITSELF)
	@touch $@ $(VENV)/.cpu

$(VENV)/.newest: $(VENV)/bin/python
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.oldest: $(VENV)/bin/python $(UV)
	@$(RESOLVE) --resolution lowest-direct pyproject.toml --extra dev --output-file $(VENV)/requirements.txt
	@$(LOCKED) -r $(LOCKS)/build.txt
	@$(PIP) --no-deps -r $(VENV)/requirements.txt
	@$(TORCH)
	@$(ITSELF)
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "this needs Python 3.11 or newer, as python3 or as: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "no virtual environment can be made; on Debian: apt install python3-venv" >&2; exit 2; }

$(UV):
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip --disable-pip-version-check install -qq uv==0.13.9
