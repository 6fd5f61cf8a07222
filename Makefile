# Everything here works from a fresh clone: the environment is made on the first call and reused after it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Files of tests share nothing; each worker takes one or two GB.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-slow lint types ready oracle oracle-metrics oracle-kernels clean

help:
	@echo "make demo       set up, train, evaluate, write a report"
	@echo "make test       set up, lint, check types, run the tests (minutes)"
	@echo "make test-slow  the tests that take longer"
	@echo "make oracle     install what tests compare with: pysaliency (needs a compiler), NATTEN, flash-linear-attention"

demo: $(READY)
	@echo "== gazekit demo"
	$(BIN)/gazekit demo

test: $(READY) lint types
	@echo "== tests"
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-slow: $(READY)
	@echo "== slow tests"
	$(BIN)/python -m pytest -m slow $(WORKERS)

lint: $(READY)
	@echo "== ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	@echo "== mypy"
	$(BIN)/mypy

ready: $(READY)

# Libraries that only the tests use.
oracle: oracle-metrics oracle-kernels

oracle-metrics: $(READY)
	@echo "== building pysaliency"
	$(BIN)/python -m pip install --quiet "setuptools<81" Cython wheel
	CFLAGS=-O1 $(BIN)/python -m pip install --quiet --no-build-isolation "pysaliency>=0.2.22"

# Without their dependencies, which would bring another PyTorch: what the tests need of them runs on a CPU.
oracle-kernels: $(READY)
	@echo "== NATTEN (without CUDA kernels, where there is no CUDA compiler) and flash-linear-attention"
	$(BIN)/python -m pip install --quiet "setuptools<81" wheel
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation "natten>=0.21.6"
	$(BIN)/python -m pip install --quiet --no-deps "fla-core>=0.5" "einops>=0.8"

# Reinstalls only when the list of dependencies changes.
$(READY): pyproject.toml
	@echo "== setting up $(VENV) (downloads PyTorch once, some minutes)"
	@$(PYTHON) -c 'import sys; sys.exit("gazekit needs Python 3.11 or newer, found %d.%d; make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .pytest_cache .ruff_cache
