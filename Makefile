# Every target is enough alone: it makes the virtual environment that it needs.
#
#   make demo PYTHON=python3.12      another interpreter, Python >= 3.11
#   make test ARGS="-k balance -x"   arguments for pytest

PYTHON ?= python3
VENV ?= .venv
OLDEST := .oldest
ARGS ?=

# Wheels of one commit are equal to the last byte, wherever they are built.
export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),1580601600)

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# All targets share one environment, which two pip runs at a time would spoil.
.NOTPARALLEL:

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: $(VENV)/.installed ## Semantic IDs of the embedded catalogue, from nothing
	$(BIN)/sk-rqkplus demo --force

.PHONY: test
test: $(VENV)/.installed-test ## Tests, and the doctests of the package and README
	SCIPY_ARRAY_API=1 $(BIN)/python -m pytest $(ARGS)

.PHONY: torture
torture: $(VENV)/.installed-test ## Fuzzing, kills, damaged files and soaks in full, hours; figures in benchmarks/results
	$(BIN)/python -m pytest tests/torture --torture -q $(ARGS)

# The overlay shadows two packages of the environment and shares the rest, torch above
# all. scikit-learn 1.6 hands pytest a generator, which pytest 9 warns of.
.PHONY: test-oldest
test-oldest: $(VENV)/.installed-test $(OLDEST)/.installed ## The scikit-learn contract on scikit-learn 1.6
	PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/python -c \
	    "import scipy.linalg, sklearn; assert sklearn.__version__ == '1.6.1', sklearn"
	SCIPY_ARRAY_API=1 PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/python -m pytest tests/test_common.py \
	    -W "ignore:Passing a non-Collection iterable:DeprecationWarning" $(ARGS)

.PHONY: lint
lint: $(VENV)/.installed-lint ## ruff, mypy, numpydoc and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/numpydoc lint $$(find sk_rqkplus -name '*.py')
	$(BIN)/codespell

.PHONY: docs
docs: $(VENV)/.installed-docs ## Examples of the guide, and its pages into docs/_build/html
	$(BIN)/python -m doctest -o ELLIPSIS -o NORMALIZE_WHITESPACE docs/*.rst
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

.PHONY: bench
bench: $(VENV)/.installed-bench ## Time and quality beside other packages, about an hour
	$(BIN)/python benchmarks/exactness.py
	$(BIN)/python benchmarks/engine.py $(ARGS)

.PHONY: gpu
gpu: $(VENV)/.installed-test $(VENV)/.installed-bench ## Tests and benchmarks that need a CUDA device
	$(BIN)/python -c "import torch; assert torch.cuda.is_available(), 'torch sees no CUDA device'"
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/engine.py --only J K $(ARGS)

.PHONY: wheel
wheel: $(VENV)/.installed-dev ## Build the sdist, and the wheel from it, into dist/
	rm -rf dist
	$(BIN)/python -m build

.PHONY: audit
audit: $(VENV)/.installed-dev ## Known vulnerabilities of the installed packages
	$(BIN)/python .ci/audit

.PHONY: dev
dev: $(VENV)/.installed-dev ## Environment with all tools, for an editor or pre-commit

.PHONY: clean
clean: ## Remove all that these targets make
	rm -rf $(VENV) $(OLDEST) dist docs/_build .pytest_cache .mypy_cache .ruff_cache
	find sk_rqkplus tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(INSTALL) -c constraints.txt -e ".[$*]"
	@touch $@

$(OLDEST)/.installed: Makefile | $(VENV)/pyvenv.cfg
	rm -rf $(OLDEST)
	$(INSTALL) --no-deps --target $(OLDEST) "scikit-learn==1.6.1" "scipy==1.15.3"
	@touch $@
