# make demo | test | check | data | install | test-all | clean.   DEVICE=cuda uses the GPU.
SHELL := bash
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
DEVICE ?= cpu
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN := .venv/bin
ZOO := zoos/digits_mini
RUNS := runs/digits_mini
SECONDS_A_MODEL ?= 110# the same budget for every model of the demo

.PHONY: install data demo check test test-all clean

install: .venv/.installed

.venv/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

data: install
	$(BIN)/python scripts/get_images.py

demo: install
	$(BIN)/python scripts/make_zoo.py spec=zoo_specs/digits_mini.yaml out=$(ZOO) device=$(DEVICE)
	$(BIN)/python scripts/build_graphs.py zoo=$(ZOO)
	$(BIN)/python -m metanet.train -m model=majority,architecture_only,statistics,dmc,sane,gnn zoo=$(ZOO) device=$(DEVICE) training.max_seconds=$(SECONDS_A_MODEL)
	$(BIN)/python -m metanet.report runs=$(RUNS) out=report.html

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m "not slow and not gpu"

test-all: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
