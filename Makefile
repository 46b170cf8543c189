# Each target sets up what it needs in .venv; nothing outside this folder is touched.

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup demo serve test lint clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.dev ## everything: server, client, training, tests

demo: $(VENV)/.embedded ## start the embedded Triton, paint eight prompts, show the pictures, stop
	$(BIN)/underpaint demo

serve: $(VENV)/.embedded ## start the embedded Triton and keep it running
	$(BIN)/underpaint serve

test: lint ## the linters and all tests, against a real tritonserver
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the environment and what demos wrote
	rm -rf $(VENV) out

# Serving needs neither torch nor diffusers; the demo does without them.
$(VENV)/.embedded: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.embedded

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "underpaint needs Python 3.11 or 3.12 with the venv module; point PYTHON at one: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
