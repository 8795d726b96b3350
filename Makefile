# Every target first makes .venv (tools/setup), which takes about a minute once and no time afterwards.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo run replay test check lint proto properties bench bench-long lock clean

BIN := .venv/bin
PYTHON := $(BIN)/python

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with everything the project needs
	@tools/setup

demo: setup ## start everything, show what it does, stop
	@$(PYTHON) -m local demo

run: setup ## start everything and keep it running; CHALLENGER=MODEL_DIR scores beside the model, and decides nothing
	@$(PYTHON) -m local run $(if $(CHALLENGER),--challenger "$(CHALLENGER)")

replay: setup ## play an event log through the running system: make replay EVENTS=log.csv
	@test -n "$(EVENTS)" || { echo 'make replay needs EVENTS=FILE, a CSV or Parquet event log' >&2; exit 2; }
	@$(PYTHON) -m local replay --events "$(EVENTS)"

test: check ## the quick checks, then every test
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile

check: setup ## ruff, mypy, import-linter; stubs, buf and squawk
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/generate-protos --check
	tools/generate-protos --lint
	$(BIN)/squawk --pg-version 18.0 --assume-in-transaction \
		--exclude require-lock-timeout,require-statement-timeout,prefer-bigint-over-int,prefer-bigint-over-smallint \
		migrations/*.sql

lint: check ## the same as check

proto: setup ## regenerate the stubs beside their .proto files
	tools/generate-protos

properties: setup ## play random lives of accounts: make properties SEQUENCES=10000 SEED=1; within an hour
	@PYTHONPATH=.:protos $(PYTHON) -m tests.property \
		$(if $(SEQUENCES),--sequences $(SEQUENCES)) $(if $(SEED),--seed $(SEED)) $(if $(WORKERS),--workers $(WORKERS))

bench: setup ## measure, one JSON line a figure
	@$(PYTHON) -m bench
	@$(PYTHON) -m bench.sweeps

bench-long: setup ## measure features over up to ten million events; takes up to half an hour
	@$(PYTHON) -m bench.features_long

lock: setup ## pin the dependencies of pyproject.toml anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--extra dev pyproject.toml --output-file requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--constraint requirements-dev.lock pyproject.toml --output-file requirements.lock

clean: ## remove what is made locally: .venv, the local data, caches
	rm -rf .venv .local build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
