# make demo   set up and run the first example      make test   set up and run the tests      make slow   the long ones, before a release
# make cuda   those that need a CUDA device, where there is one: at most 8 minutes
# All do their own set-up and skip what is already there; the demo's is smaller. PYTHON chooses the interpreter, JOBS how
# many tests run at a time. Tests start hundreds of processes, which is quicker where compiled modules are kept.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PLUGINS := $(sort $(patsubst plugins/%/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
TORCH := { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && $(BIN)/python -m pip install -q -c constraints.txt torch hatchling editables
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation

.PHONY: demo test slow cuda lint types install clean
demo: $(DEMO_READY)
	$(BIN)/ddcore run --plugin fyi --plugin datm --dataset digits --ipc 1 $(DEMO)

test: install
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(JOBS) --dist worksteal $(TESTS)

slow: install
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(JOBS) -m slow --timeout 3600 $(TESTS)

# In an environment (VENV) whose torch sees a CUDA device, with ddcore and its plugins installed.
cuda:
	$(BIN)/pytest -m cuda --timeout 480 --durations 10 $(TESTS)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

install: $(READY)

# torch first, and pinned: any looser request fetches gigabytes of CUDA libraries.
$(READY): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	$(TORCH)
	$(INSTALL) -e ".[dev]" $(PLUGINS:%=-e plugins/%)
	touch $(READY) $(DEMO_READY)

$(DEMO_READY): pyproject.toml constraints.txt
	$(TORCH)
	$(INSTALL) -e ".[report]" -e plugins/fyi -e plugins/datm
	touch $(DEMO_READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
