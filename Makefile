# `make repro` and `make test` are all that most people need; `make help` lists the rest.
PYTHON ?= python3.11
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export TF_CPP_MIN_LOG_LEVEL := 3
unexport PYTHONDONTWRITEBYTECODE  # what pytest makes of the tests is made once

.DEFAULT_GOAL := help
.PHONY: help env repro rehearse test test-fast soak test-all format lock clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: .venv/.installed ## the environment: .venv with every locked package

.venv/.installed: locks/bootstrap.lock locks/build.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/bootstrap.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r locks/build.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q pipeline
	@touch $@

artifacts/trust.yaml: | .venv/.installed
	hotspare keys new artifacts/keys --trust $@ --if-missing

repro: env artifacts/trust.yaml ## real data, three trained models, candidates, signed bundles, MLflow: everything
	dvc repro

rehearse: env ## pack each pair twice, verify by two verifiers, archive; nothing is kept or promoted
	hotspare release --dry-run

test: env ## every test a contributor needs: 11 minutes on two processors
	ruff check .
	ruff format --check --quiet .
	mypy
	lint-imports --no-cache
	pytest -n 2 -m "not long"

test-fast: env ## the tests that start nothing heavy: a minute or two
	pytest -n 2 -m "not slow and not long"

soak: env ## three minutes of load with a fault every quarter of a minute: nothing lost, nothing wrong
	pytest tests/benchmarks/test_soak.py -k three_minutes_of_faults

test-all: env ## everything, the long kill and clean-environment runs too
	pytest

format: env ## rewrite the code in house style
	ruff check --fix .
	ruff format .

lock: env ## renew the locked versions and their hashes
	for lock in bootstrap:locks/bootstrap.in node:pyproject.toml "build:pyproject.toml --extra build --extra registry --extra serve --extra delivery --extra pkcs11 --extra registry-server --extra cluster --extra test"; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    $${lock#*:} --output-file locks/$${lock%%:*}.lock || exit 1; \
	done

clean: ## remove what the stages wrote; keys and the MLflow store stay
	rm -rf artifacts/trained artifacts/variants artifacts/candidates artifacts/scorecards artifacts/selections artifacts/bundles artifacts/drills artifacts/tried_drills artifacts/reports
