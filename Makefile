# Each target does its own set-up. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin

# What the tests start machines from.
TEST_TEMPLATES := debian-12 python-3.12-bare node-22 code-interpreter
PYTHON := .venv/bin/python
TERPD := .venv/bin/terpd

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## install what is missing, build .venv, the guest agent, the jail and the vault
	@tools/setup

quickstart: setup  ## set up, build one template, run a program in a virtual machine
	@$(TERPD) template build python-3.12 --size small
	@$(PYTHON) tools/quickstart.py

serve: setup  ## run the server at its default address
	@$(TERPD) serve

template-%: setup
	@$(TERPD) template build $* --size small

templates: $(addprefix template-,$(TEST_TEMPLATES))  ## build the templates that the tests use

test: setup js-package browser  ## set up, build the test templates, run every test
	@tools/test

vm: templates js-package  ## run the tests that boot machines
	$(PYTHON) -m pytest -m vm

js-package:
	@tools/setup js

browser:
	@tools/setup docs

js: js-package  ## build, lint and test the JavaScript SDK; what needs machines is in make vm
	cd clients/js && npm run lint && npm test

soak: templates  ## 200 random operations on several sandboxes, the server killed again and again
	TERP_SOAK_CYCLES=$${TERP_SOAK_CYCLES:-200} $(PYTHON) -m pytest tests/fault/test_soak.py

bench: templates  ## measure each path against its floor
	$(PYTHON) -m bench

check: setup js-package  ## format, lint, types, import directions, generated files
	@tools/setup lint
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(PYTHON) tools/proto.py --check
	$(PYTHON) tools/sync.py --check
	$(PYTHON) tools/openapi.py --check
	cd clients/js && npm run lint

docs: setup  ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict
	@echo "site/index.html; with search: python3 -m http.server --directory site"

lock: setup  ## renew the locked packages of the templates and of the set-up
	@tools/lock

clean:  ## remove what was built here; templates stay
	rm -rf site clients/js/dist clients/js/node_modules target .venv .venvs .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup quickstart serve templates test vm js js-package browser soak bench check docs lock clean
