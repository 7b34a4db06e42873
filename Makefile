# `make test` and `make bench` do all the set-up that a fresh machine needs: a virtual environment in .venv with pinned
# versions, and whatever the machine can build.
#
#   make test PYTHON=python3      in an environment that already has torch, without network: nothing is downloaded

ifdef PYTHON
PY     := $(PYTHON)
STAMP  := build/installed
else
PY     := .venv/bin/python
STAMP  := .venv/installed
endif

JOBS   ?= 2
PYTEST := $(PY) -m pytest -n $(JOBS) --dist worksteal

.PHONY: test test-all prefer-cpu emulate grid mutants bench docs wheel lint clean

test: $(STAMP)
	$(PYTEST) -m "not long" tests

# What every commit has to pass: also what takes minutes, of which some take turns from commit to commit; the compiled Triton
# kernels, a sample of their cases, on an emulated GPU; the documentation.
test-all: test docs
	CONVEXT_TURNS=1 $(PYTEST) -m long tests
	$(PYTEST) tests/emulator

# What is asked of every operator and layer, asked of the kernels for CPUs wherever they take a call. A few tests hold float32 to
# torch.testing's defaults, which are narrower than the rule for kernels: those may differ.
prefer-cpu: $(STAMP)
	PYTHONPATH=tests/cpu $(PYTEST) -p pytest_prefer_cpu -m "not long" tests/operators tests/layers tests/torch_agreement

# Everything that tests/emulator samples, and the suite of the Triton kernels on each of its devices.
emulate: $(STAMP)
	EMULATOR_ALL=1 $(PYTEST) tests/emulator
	for arch in 80 90 120; do \
	  EMULATOR_ARCH=$$arch PYTHONPATH=tests/emulator $(PYTEST) -p gpu_emulator.pytest_plugin tests/triton_kernels || exit 1; \
	done

# Every nesting of torch.func's transforms; `make test` runs a sample, another one for each commit.
grid: $(STAMP)
	CONVEXT_GRID=whole $(PYTEST) tests/operators/transforms/grid $(ARGS)

# Changes the core one operator at a time, and says which changes no test notices. Takes up where it was stopped.
mutants: $(STAMP)
	$(PY) tests/mutants/session.py $(ARGS)

bench: $(STAMP)
	$(PY) -m convext bench $(ARGS)

# The documentation's pages; a warning is an error.
docs: $(STAMP)
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs

# A wheel for other machines, in dist/: auditwheel names the oldest Linux on which its libraries load.
wheel: $(STAMP)
	rm -rf build/lib* build/wheel
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH="$(dir $(PY)):$$PATH" $(PY) -m auditwheel repair --exclude 'libtorch*' --wheel-dir dist build/wheel/*.whl

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.ci/types $(PY)
	git ls-files '*.cu' '*.cuh' '*.h' '*.c' '*.cpp' | xargs -r $(dir $(PY))clang-format --dry-run --Werror

# --no-build-isolation: the compiled library is built against the torch that it will run with.
.venv/installed: requirements.txt pyproject.toml setup.py $(wildcard csrc/*/* csrc/*/*/*)
	python3 -m venv .venv
	$(PY) -m pip install --quiet --requirement requirements.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

build/installed: pyproject.toml setup.py $(wildcard csrc/*/* csrc/*/*/*)
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	mkdir -p build && touch $@

clean:
	rm -rf .venv build dist *.egg-info convext/*.so
