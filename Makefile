# make demo   install into .venv and run the demonstration
# make test   install for development into .venv and run every test
# make lint   ruff and mypy
# make test-quant   the tests that need quantisation libraries, installed into .venv-quant
#
# PYTHON is the interpreter that makes the virtual environment VENV. pip's own settings apply, so PIP_FIND_LINKS or
# PIP_EXTRA_INDEX_URL can point at a CPU build of torch.

PYTHON ?= python3
VENV ?= .venv
QUANT_VENV ?= .venv-quant

BIN := $(VENV)/bin
QUANT_BIN := $(QUANT_VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find lm_bounds -name '*.py' -o -name '*.yaml' -o -path 'lm_bounds/models/*/*')
PACKAGING := pyproject.toml constraints.txt README.md $(wildcard lm_bounds/tasks/yaml/*.yaml)

QUANT_INSTALL := $(QUANT_BIN)/python -m pip install -qq --disable-pip-version-check \
	-c $(QUANT_VENV)/constraints.txt -c constraints-quant.txt

.PHONY: demo test test-quant lint clean

# An editable install, where there is one, serves the demonstration as well.
demo: $(if $(wildcard $(VENV)/test.stamp),$(VENV)/test.stamp,$(VENV)/demo.stamp)
	$(BIN)/lm-bounds demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n auto

test-quant: $(QUANT_VENV)/test.stamp
	OMP_NUM_THREADS=1 $(QUANT_BIN)/python -m pytest tests/quant

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(QUANT_VENV) own_text build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(PACKAGING) $(SOURCES) | $(BIN)/python
	$(INSTALL) .
	touch $@

$(VENV)/test.stamp: $(PACKAGING) | $(BIN)/python
	$(INSTALL) -e '.[test]'
	touch $@

$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(INSTALL) -e '.[dev]'
	touch $@

# Some of the libraries import torch while they are built, so it comes first and they are built beside it.
$(QUANT_VENV)/test.stamp: $(PACKAGING) constraints-quant.txt
	$(PYTHON) -m venv $(QUANT_VENV)
	grep -v '^numpy==' constraints.txt > $(QUANT_VENV)/constraints.txt
	$(QUANT_INSTALL) -e '.[test]' setuptools wheel
	$(QUANT_INSTALL) --no-build-isolation aqlm auto-round bitsandbytes compressed-tensors gguf gptqmodel hqq numba \
		optimum torchao
	touch $@
