# make demo   set up and run the first example      make test   set up and run the tests      make slow   the long ones, before a release
# Both do all of their own set-up and skip what is already there. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PLUGINS := $(sort $(patsubst plugins/%/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))
READY := $(VENV)/.ready

.PHONY: demo test slow lint types install clean
demo: install
	$(BIN)/ddcore run --plugin fyi --plugin datm --dataset digits --ipc 1 $(DEMO)

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(TESTS)

slow: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow --timeout 3600 $(TESTS)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

install: $(READY)

# torch first, and pinned: any looser request fetches gigabytes of CUDA libraries.
$(READY): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch hatchling editables
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e ".[dev]" $(PLUGINS:%=-e plugins/%)
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
