# make demo   set up and run the first example      make test   set up and run the tests      make slow   the long ones, before a release
# make cuda   those that need a CUDA device, where there is one: at most 8 minutes
# make versions   the core alone with the oldest and newest torch and click that are claimed, before a release
# make portable   tests that compare floats, as on other processors, with other threads and seeds, before a release
# All do their own set-up and skip what is already there; the demo's is smaller. PYTHON chooses the interpreter, JOBS how
# many tests run at a time. Tests start hundreds of processes, which is quicker where compiled modules are kept.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PLUGINS := $(sort $(patsubst plugins/%/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))
# The oldest and the newest, which are what pyproject.toml and the README claim: tests/house/test_versions.py.
TRIED ?= python3.11:2.13.0:0.28.0:8.2.0 python3.11:2.14.1:0.29.1:8.5.1
KINDS := matcher enhancement labels student evaluator data executor
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
TORCH := { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && $(BIN)/python -m pip install -q -c constraints.txt torch hatchling editables
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation

# What fails on one kind of processor: oneDNN's instructions, torch's, threads, and by how much every seed is moved. "best" is no limit.
VARIANTS ?= SSE41:default:2:0 AVX2:avx2:2:0 best:best:2:0 SSE41:default:1:0 AVX2:avx2:1:0 best:best:1:0 best:best:1:1 SSE41:default:1:1
OTHER := $(foreach name,api array_files bench broken_plugins browser budget cli compare contract copies dispatch docs doctor \
  executors exports holding hostile kills levels matrix one_way options plots plugins presets preview readers scaffold secrecy storage \
  stores strangers testing tracking tutorial work,$(wildcard tests/*/test_$(name).py)) $(wildcard $(patsubst %,plugins/%/tests/*,mlflow ray submitit tensorboard))
NUMERIC := $(filter-out $(OTHER),$(wildcard tests/*/test_*.py plugins/*/tests/test_*.py))

.PHONY: demo quick test slow portable versions cuda lint types install clean
demo: $(DEMO_READY)
	$(BIN)/ddcore run --plugin fyi --plugin datm --dataset digits --ipc 1 $(DEMO)

test: install
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(JOBS) --dist worksteal --durations 25 $(TESTS)

# The core's units and two plugins: under a minute on two cores.
QUICK := $(addprefix tests/,composing images labels networks data house/test_names.py) plugins/dm/tests plugins/fyi/tests/test_fyi.py
quick: install
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(JOBS) --dist worksteal $(QUICK)

slow: install
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(JOBS) -m slow --timeout 3600 $(TESTS)

# In an environment (VENV) whose torch sees a CUDA device, with ddcore and its plugins installed.
cuda:
	$(BIN)/pytest -m cuda --timeout 480 --durations 10 $(TESTS)

portable: install
	failed=; for variant in $(VARIANTS); do \
	  echo "portable: $$variant"; set -- $$(echo $$variant | tr : ' '); unset ONEDNN_MAX_CPU_ISA ATEN_CPU_CAPABILITY; \
	  test $$1 = best || export ONEDNN_MAX_CPU_ISA=$$1; test $$2 = best || export ATEN_CPU_CAPABILITY=$$2; \
	  OMP_NUM_THREADS=$$3 DDCORE_TEST_SEED_SHIFT=$$4 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(JOBS) --dist worksteal \
	    $(or $(TESTS),$(NUMERIC)) || failed="$$failed $$variant"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# Each `interpreter:torch:torchvision:click` is an environment of its own, with the core alone: gigabytes where torch comes with CUDA.
versions: install
	failed=; for tried in $(TRIED); do \
	  echo "versions: $$tried"; set -- $$(echo $$tried | tr : ' '); \
	  PYTHON=$(BIN)/python INTERPRETER=$$1 TORCH=$$2 TORCHVISION=$$3 CLICK=$$4 .ci/alone || failed="$$failed $$tried"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache

types: install
	$(BIN)/mypy
	made=$$(mktemp -d) && trap 'rm -rf $$made' EXIT && for kind in $(KINDS); do \
	  $(BIN)/ddcore plugins new typed-$$kind --kind $$kind --out $$made > /dev/null || exit 1; \
	done && $(BIN)/mypy $$made/*/ddcore_*

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
