# make setup | demo | studies | test | test-slow | check | gpu-check        Another Python: make PYTHON=python3.12 ...
# Options for pip (a mirror, another torch build): make PIP_ARGS="..." setup

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
OUT ?= runs/gpu-check

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 2 $(PIP_ARGS) -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: setup demo studies test test-slow check gpu-check clean

setup: $(STAMP)

demo: setup
	$(BIN)/saccade demo --out runs/demo $(ARGS)

# Those that were measured to fit into an hour on two cores; `saccade study --list` has all. Each resumes where it was stopped.
STUDIES ?= overthinking hard_reward zero_or_cold_start box_inflation descriptive_queries bridged_captions
studies: setup
	for study in $(STUDIES); do $(BIN)/saccade study $$study --out runs/studies/$$study || exit $$?; done

test: setup
	$(PYTEST) -q -n 2 --dist worksteal $(ARGS)

# Property tests too, here with random examples: --hypothesis-seed=N repeats a failure.
test-slow: setup
	$(PYTEST) -v -m slow --timeout 7200 $(ARGS)

check: setup
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/pyright
	$(PYTEST) -q tests/test_house_rules.py

# On a machine without network: with the wheels of docs/gpu.md in wheels/, and PYTHON one that has torch. Nothing is set up.
GPU_PYTHON := $(if $(wildcard wheels/*.whl),$(PYTHON),$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)))
GPU_SITE := $(if $(wildcard wheels/*.whl),build/gpu-site)

gpu-check: $(GPU_SITE)
	@PYTHONPATH=src:$(GPU_SITE) $(GPU_PYTHON) -m benchmarks.gpu_check --out $(OUT) $(ARGS)

build/gpu-site: $(wildcard wheels/*.whl)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade --target $@ $^
	@touch $@

clean:
	rm -rf $(VENV) build dist

# torch comes first and by its exact name, so that nothing that is asked for later can choose another build of it.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "saccade: '$(PYTHON)' is not there; install Python 3.11 or newer, or say: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "saccade: got $$($(PYTHON) --version), expected Python 3.11 or newer; say: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "saccade: $(PYTHON) has no 'venv'; install it (on Debian and Ubuntu: the package python3-venv) and run make again" >&2; exit 1; }
	@echo "saccade: setting up $(VENV) (PyTorch, transformers and their dependencies; a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@{ $(PIP) torch==2.13.0 && $(PIP) -e '.[dev]'; } || { echo "saccade: pip could not install the packages (its reason stands above): check network and disk space (2 GB), pass options with PIP_ARGS='...', and run make again" >&2; exit 1; }
	@touch $@
