PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
# Processes of the test suite; each keeps to one thread.
JOBS ?= 2
# What `make test-versions` runs, and the Python of its environments.
VERSIONS ?= oldest 2.8 2.11 2.13 newest
OLD_PYTHON ?= $(PYTHON)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: help demo test test-slow test-versions types lint format bench-quick fuzz mutation docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo  ## rank a gallery, train with and without STRF, count costs, write a report; DATA=DIR ranks your tracklets
	$(BIN)/python examples/rank_tracklets.py $(if $(DATA),--data $(DATA))
	$(BIN)/python examples/train_walkers.py
	$(BIN)/python benchmarks/flops.py --network c2d_resnet50 --network strf_c2d_resnet50 --network strf_p3dc_resnet50
	$(BIN)/strfnet show --report --model strf_c2d_resnet8 --weights walkers --out demo/report.html

test: lint types  ## run the linters, the type checker and the quick tests
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed  ## run the long sweeps, and every property on ten times as many drawn examples
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=thorough

test-versions: $(VENV)/installed  ## run the core tests under several versions of PyTorch, e.g. VERSIONS=oldest OLD_PYTHON=python3.10
	$(BIN)/python tests/versions.py --only $(VERSIONS) --python $(OLD_PYTHON)

lint: $(VENV)/installed  ## check style and formatting
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .

types: $(VENV)/installed  ## check types
	$(BIN)/mypy

format: $(VENV)/installed  ## format all files and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-quick: $(VENV)/installed  ## count the published networks' costs and time a short list of layers and networks
	$(BIN)/python benchmarks/flops.py
	$(BIN)/python benchmarks/speed.py --quick

fuzz: $(VENV)/installed  ## read 10,000 damaged and forged inputs of each kind, 10 minutes a kind at most
	$(BIN)/python benchmarks/fuzz.py

mutation: $(VENV)/installed  ## change the code in small steps and count the changes that the tests find; PART=losses is one part
	$(BIN)/python benchmarks/mutation.py $(if $(PART),--part $(PART))

docs: $(VENV)/installed  ## build the documentation in build/docs
	$(BIN)/sphinx-build -W --keep-going --quiet -b html docs build/docs

$(VENV)/demo: pyproject.toml
	@echo "installing strfnet and PyTorch into $(VENV); the first time this downloads PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --quiet install --no-compile --root-user-action=ignore --no-warn-script-location --editable ".[train,viz]"
	@touch $@

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --root-user-action=ignore --no-warn-script-location --editable ".[check]"
	@touch $@

clean:  ## delete the virtual environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info
