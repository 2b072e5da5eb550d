# `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: help demo demo-full quick test lint soak bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $(VENV)/.installed $@

# The demo's experiments; each is a configuration of configs/sample. LPIPS=FILE names weights that are here already.
TRAINER := $(BIN)/python tasks/trainer.py
INFER := --infer --hparams "lpips_weights=$(LPIPS)"

demo: $(VENV)/.installed ## artificial data, three small models, a table, pictures, a map: a few minutes
	$(BIN)/python tasks/demo.py --lpips "$(LPIPS)"

demo-full: $(VENV)/.installed ## the same with all sample models, trained longer: docs/results.md
	$(BIN)/python data_gen/sample.py data/sample
	$(BIN)/python data_gen/preprocess_data.py data/sample
	$(TRAINER) --config configs/sample/rrdb.yaml --exp_name demo-full/rrdb
	$(TRAINER) --config configs/sample/srdiff_rrdb.yaml --exp_name demo-full/srdiff_rrdb --hparams "rrdb_ckpt=checkpoints/demo-full/rrdb"
	$(TRAINER) --config configs/sample/hr_ltae.yaml --exp_name demo-full/hr_ltae
	$(TRAINER) --config configs/sample/srdiff_hr_ltae.yaml --exp_name demo-full/srdiff_hr_ltae --hparams "rrdb_ckpt=checkpoints/demo-full/hr_ltae"
	$(TRAINER) --config configs/sample/bicubic.yaml --exp_name demo-full/bicubic $(INFER)
	$(TRAINER) --config configs/sample/rrdb.yaml --exp_name demo-full/rrdb $(INFER)
	$(TRAINER) --config configs/sample/srdiff_rrdb.yaml --exp_name demo-full/srdiff_rrdb $(INFER)
	$(TRAINER) --config configs/sample/hr_ltae.yaml --exp_name demo-full/hr_ltae $(INFER)
	$(TRAINER) --config configs/sample/srdiff_hr_ltae.yaml --exp_name demo-full/srdiff_hr_ltae $(INFER)
	$(BIN)/python tasks/compare.py --patches 3 --output checkpoints/demo-full/comparison checkpoints/demo-full/bicubic checkpoints/demo-full/rrdb checkpoints/demo-full/srdiff_rrdb checkpoints/demo-full/hr_ltae checkpoints/demo-full/srdiff_hr_ltae

# Each worker of pytest takes whole files, so that what a file prepares is prepared once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

quick: $(VENV)/.installed-dev ## the tests that neither train nor take long
	$(PYTEST) -m "not (training or slow or soak)" --ignore tests/behaviour --ignore tests/benchmarks

test: $(VENV)/.installed-dev lint ## all tests but the longest
	$(PYTEST) -m "not soak"

lint: $(VENV)/.installed-dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy models utils data_gen tasks

soak: $(VENV)/.installed-dev ## the tests that take long
	MISR_SOAK=1 $(PYTEST) -m "soak or hypothesis"

bench: $(VENV)/.installed-dev ## time everything on this machine
	$(BIN)/python benchmarks/run.py

clean: ## remove the environment and the demo's results
	rm -rf $(VENV) data/sample checkpoints/demo checkpoints/demo-full
