# `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: help demo test lint soak bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed ## sample data, preprocessing, training, evaluation: a table and a picture
	$(BIN)/python tasks/demo.py

test: $(VENV)/.installed-dev lint ## all tests but the longest
	$(BIN)/python -m pytest -m "not soak"

lint: $(VENV)/.installed-dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy models utils data_gen tasks

soak: $(VENV)/.installed-dev ## the tests that take long
	$(BIN)/python -m pytest -m soak

bench: $(VENV)/.installed-dev ## time everything on this machine
	$(BIN)/python benchmarks/run.py

clean: ## remove the environment and the demo's results
	rm -rf $(VENV) data/sample checkpoints/demo
