# Nothing but names: tools/ws/bootstrap.py brings uv and the environment up to date
# (it needs Python 3.11 or later and the package index), then runs the command.
PYTHON ?= python3
RUN := $(PYTHON) tools/ws/bootstrap.py

# User variables are handed on untouched: make demo CALLS=2000, make test ARGS="-k redis".
export CALLS INPUT SERVE ONLY
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types chaos bench new-package clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## make .venv with every package, editable (all other targets do it too)
	@$(RUN)

demo: ## run the example services on real servers and balance the books (CALLS=500, INPUT=calls.jsonl)
	@$(RUN) demo

test: ## run every test on real servers (ARGS="-k name" is handed to pytest)
	@$(RUN) pytest -n auto --dist worksteal -m "not chaos" --durations 15 --durations-min 5 $(ARGS)

check: ## lint, format, types, layers, conformance of every package
	@$(RUN) ws check --all

lint: ## ruff, with repairs
	@$(RUN) ws lint --fix

types: ## mypy and basedpyright, strict
	@$(RUN) ws types

chaos: ## the long fault histories
	@$(RUN) pytest -n auto --dist worksteal -m chaos $(ARGS)

bench: ## measure against raw drivers and peers (ONLY=context)
	@$(RUN) --group bench python -m benchmarks

new-package: ## make a package from the template (NAME=common-foo)
	@$(RUN) ws new "$(NAME)" && $(RUN)

clean: ## remove the environment, caches and build results
	@$(PYTHON) tools/ws/bootstrap.py --clean
