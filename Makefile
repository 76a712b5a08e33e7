# Two commands are the contract: 'make demo' and 'make test'. See README.md.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types format cluster cluster-down lock clean

help:
	@echo "make demo          set up, and run three sample experiments with no server at all"
	@echo "make test          set up everything, real Slurm, RabbitMQ and S3 included, and test"
	@echo "make check         lint and types"
	@echo "make cluster       start the development cluster; 'make cluster-down' stops it"
	@echo "make lock          resolve the development lock file again"

setup:
	@dev/setup dev

demo:
	@dev/setup run
	@.venv/bin/hpcrunner demo

test: setup
	@dev/test

check: lint types

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.venv/bin/mypy

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

cluster: setup
	@dev/cluster-up

cluster-down:
	@.venv/bin/python -m dev.cluster down

lock:
	@dev/setup dev
	.venv/bin/uv pip compile -q --universal --python-version 3.10 --no-header --no-annotate \
	    --extra dev --extra gcs --extra drmaa pyproject.toml -o requirements-dev.lock

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
