# Each target sets up .venv from the exact pins of requirements.txt if it is missing or older than them; `make optional`
# adds requirements-optional.txt.
PYTHON ?= python3
PORT ?= 5000
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: bench datasets export kills optional report repro results test lint ui
.DEFAULT_GOAL := repro

repro: .venv/.ready
	@if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then dvc config --local --unset core.no_scm 2>/dev/null || true; else \
	  dvc config --local core.no_scm true; \
	  echo "No git history here: the pipeline runs, but experiments (dvc exp), comparisons with past revisions (dvc metrics"; \
	  echo "diff) and the commit in MLflow are lost. To have them: git init && git add -A && git commit -m import"; fi
	@python -m headstart check
	dvc repro
	@echo "The result: open metrics/report.html; the run in MLflow: make ui"

datasets: .venv/.ready
	@python -m headstart datasets

optional: .venv/.optional

# HEADSTART_TEST_DATA: a directory with cifar10-mini.zip, fashion-mnist/ or both adds tests on real archives
test: .venv/.optional
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m "not kills"

# sweeps on a Ray cluster on loopback, of which nodes and drivers are killed
kills: .venv/.optional
	OMP_NUM_THREADS=1 python -m pytest -m kills tests/sweep/test_cluster.py

# BENCH="step views": some of them alone. The peers it measures against lie beside .venv, which they cannot change.
bench: .venv/.ready .bench/.ready
	PYTHONPATH=.bench python -m benchmarks $(BENCH)

export: .venv/.ready
	@python -m headstart export

report: .venv/.ready
	@python -m headstart report --rows dvc --out report/index.html

results: .venv/.ready
	@python -m headstart results

lint: .venv/.ready
	ruff check .
	ruff format --check .
	PYTHONPATH=src lint-imports
	mypy

ui: .venv/.ready
	@python -m headstart ui --port $(PORT)

.venv/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headstart needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@# `python -m headstart`: a stage's own copy of the library still comes first (stages/__init__.py)
	@echo "$(CURDIR)/src" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/headstart.pth"
	@touch $@

# the first file as constraints: what it pins stays as it is
.venv/.optional: .venv/.ready requirements-optional.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -r requirements-optional.txt
	@touch $@

.bench/.ready: benchmarks/requirements.txt | .venv/.ready
	rm -rf .bench
	python -m pip install --quiet --disable-pip-version-check --no-deps --target .bench -r $<
	@touch $@
