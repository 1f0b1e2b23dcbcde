# Two commands do everything: make fit, make test. ARGS="..." passes flags on: make fit ARGS="--accelerator gpu".
PYTHON ?= python3
ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup fit check test soak fuzz bench gpu docs format tensorboard
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/installed  ## make .venv with the pinned requirements and the package

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

fit: setup  ## train: make fit ARGS="--data.dataset mnist --max_epochs 5"
	$(BIN)/python scripts/fit.py $(ARGS)

LINT = $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

check: setup  ## format, lint, types and the quick tests, in a minute
	$(LINT)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test: setup  ## format, lint, types and all tests
	$(LINT)
	$(BIN)/python -m pytest $(ARGS)

N ?= 100
soak: setup  ## stop N real runs at random moments, resume them, count differences: make soak N=100
	$(BIN)/python -m pytest tests/promises/test_kills.py -n 0 -o faulthandler_timeout=0 --kills $(N) $(ARGS)

fuzz: setup  ## read damaged files of every kind for an hour: none may end in a traceback or hang
	$(BIN)/python -m pytest tests/promises/test_fuzz.py -n 0 --fuzz-seconds 510 $(ARGS)

bench: setup  ## measure speed against the tutorial's loop, stock Lightning, a bare loop and scikit-learn
	$(BIN)/python benchmarks/run.py $(ARGS)

gpu: $(if $(filter $(VENV)/bin,$(BIN)),setup)  ## on a machine with a GPU: all tests, those for a GPU, docs/gpu.md; make gpu BIN=/usr/bin
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make gpu: torch finds no CUDA device")'
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n auto --maxprocesses 8
	$(BIN)/python -m pytest -n 0 tests/promises/test_gpu.py
	$(BIN)/python benchmarks/run.py --only gpu --repeats 3 --write docs/gpu.md $(ARGS)

# The package loads its public names when they are first used: pdoc sees them once they are there. fit and sweep are
# among them, so pdoc takes these two modules from there.
PDOC = import logreg_lightning as p, pdoc.__main__ as m; vars(p).update({n: getattr(p, n) for n in p.__all__}); m.cli()
DOCUMENTED = $(filter-out %.__main__ %.fit %.sweep,$(subst /,.,$(patsubst %/__init__,%,$(basename \
	$(wildcard logreg_lightning/*.py logreg_lightning/*/__init__.py)))))
docs: setup  ## build the API reference from the docstrings: open build/docs/index.html
	$(BIN)/python -c '$(PDOC)' --docformat google --output-directory build/docs $(DOCUMENTED)

format: setup  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tensorboard: setup  ## open the curves of all runs
	$(BIN)/tensorboard --logdir lightning_logs $(ARGS)
