# install · quickstart · test · lint; the middle two install first.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; override with `make PYTHON=/path/to/python3.12 install`.
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
STAMP := $(VENV)/.installed

.PHONY: help install quickstart test slow faults fuzz benchmarks lint ruff types spelling format matrix docs build clean

help:  ## List the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

install: $(STAMP)  ## Create .venv with the exact versions of constraints.txt.

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "epitaxy needs Python 3.11 or newer: install it, or name it with PYTHON=..." >&2; exit 1; fi
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "no virtual environment: on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }

# torch first and alone: its constraint decides the build before anything else asks for "torch".
$(STAMP): pyproject.toml constraints.txt $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: install  ## Made-up data, pre-training, fine-tuning and a report in minutes.
	$(BIN)/epitaxy quickstart $(ARGS)

test: install  ## The fast tests.
	$(BIN)/python -m pytest $(ARGS)

slow: install  ## Tests that take minutes each.
	$(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

faults: install  ## Everything that kills workers and drivers, slow or not.
	$(BIN)/python -m pytest -m 'not gpu' --timeout 3600 tests/faults $(ARGS)

fuzz: install  ## A million damaged inputs for every reader of stored bytes.
	$(BIN)/python tests/fuzz/campaign.py --inputs 1000000 --out benchmarks/results/fuzz.csv $(ARGS)

benchmarks: install  ## Speed comparisons; writes benchmarks/results/*.csv.
	$(BIN)/python benchmarks/neighbors.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/data_path.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/zarr_path.py
	$(BIN)/python benchmarks/ray_feed.py
	$(BIN)/python benchmarks/edge_cache.py
	$(BIN)/python benchmarks/epoch_profile.py
	$(BIN)/python benchmarks/force_step.py --out benchmarks/results/force_step.csv

lint: ruff types spelling  ## Style, types and spelling.

ruff: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

spelling: install
	$(BIN)/codespell

format: install  ## Let ruff rewrite what it can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

matrix: install  ## Write docs/objective_matrix.md anew.
	$(BIN)/epitaxy objectives out=docs/objective_matrix.md

docs: install  ## Build the documentation into site/.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

build: install  ## Build the wheel into dist/.
	$(BIN)/python -m hatchling build --target wheel

clean:  ## Remove what this Makefile made.
	rm -rf $(VENV) dist site .mypy_cache .pytest_cache .ruff_cache
