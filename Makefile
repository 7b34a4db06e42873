# `make test` and `make bench` do all the set-up that a fresh machine needs: a virtual environment in .venv with pinned
# versions, and whatever the machine can build.
#
#   make test PYTHON=python3      in an environment that already has torch, without network: nothing is downloaded

TORCH  := 2.13.0
TRITON := 3.7.1

ifdef PYTHON
# The interpreter's own torch; only convext itself is installed, without asking the network for anything.
PY     := $(PYTHON)
SETUP  := $(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
STAMP  := build/installed-$(notdir $(PY))
else
PY     := .venv/bin/python
SETUP  := python3 -m venv .venv \
          && $(PY) -m pip install --quiet torch==$(TORCH) triton==$(TRITON) setuptools wheel ninja \
          && $(PY) -m pip install --quiet --no-build-isolation --editable '.[dev]'
STAMP  := .venv/installed
endif

JOBS   ?= 2
PYTEST := $(PY) -m pytest -n $(JOBS)

.PHONY: test bench lint clean

test: $(STAMP)
	$(PYTEST) tests

bench: $(STAMP)
	$(PY) -m convext bench $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	find csrc tests/csrc -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.cpp' | xargs $(dir $(PY))clang-format --dry-run --Werror

$(STAMP): pyproject.toml setup.py $(wildcard csrc/*)
	$(SETUP)
	mkdir -p $(@D) && touch $@

clean:
	rm -rf .venv build dist *.egg-info convext/*.so
