# Every command of the project; each does its own set-up. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
WORKERS ?= 3
ISSUE ?= 3
NAME ?= rating
export DAGSTER_DISABLE_TELEMETRY = 1
export ANMI_DATA ?= $(abspath ../shared/data)
ifeq ($(wildcard $(ANMI_DATA)),)
unexport ANMI_DATA
endif

.PHONY: help venv demo ui test lint types contracts acceptance benchmark screenshots clean

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

venv: $(VENV)/.installed ## make .venv with the tested versions of everything

# torch first and by its own pin: resolved together with the rest, pip would fetch another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "== making $(VENV) (about 2.5 GB, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: venv ## build everything on the embedded dataset and print the leaderboard
	@echo "== materialising every asset on the embedded dataset (state in $${ANMI_HOME:-.anmi})"
	@$(BIN)/anmi demo

ui: venv ## open Dagster and MLflow on loopback with the same state
	@$(BIN)/anmi ui

test: venv lint types contracts ## everything that must hold before a change lands
	@echo "== tests"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=85 -q
	@$(BIN)/dg check defs

lint: venv
	@echo "== ruff"
	@$(BIN)/ruff check anmi_pipeline anmi_pipeline_tests benchmarks docs
	@$(BIN)/ruff format --check anmi_pipeline anmi_pipeline_tests benchmarks docs

types: venv
	@echo "== pyright, strict on the package"
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

contracts: venv
	@echo "== import contracts"
	@$(BIN)/lint-imports

acceptance: venv ## run the acceptance scripts of an issue: make acceptance ISSUE=3
	@$(BIN)/python benchmarks/acceptance/run.py $(ISSUE)

benchmark: venv ## measure one stage beside its peers: make benchmark NAME=rating (or designs, graphs, judging, lists, costs)
	@$(BIN)/python benchmarks/$(NAME).py

screenshots: venv ## make the pictures of the docs again from the demo's state
	@$(BIN)/python docs/make_screenshots.py

clean: ## remove .venv and caches, never state
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
