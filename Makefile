PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
# What `make test-versions` runs, and the Python from which it makes environments.
VERSIONS ?= oldest 2.8 2.11 newest
OLD_PYTHON ?= $(PYTHON)

.PHONY: demo test test-versions docs check clean

demo: $(VENV)/installed  ## a ResNet-50 with STRF ranks tracklets; a small network is shown; one is trained with and without STRF
	$(BIN)/python examples/rank_tracklets.py $(if $(DATA),--data $(DATA))
	$(BIN)/strfnet show --report --model strf_c2d_resnet8 --weights walkers --out demo/report.html
	$(BIN)/python examples/train_walkers.py

test: $(VENV)/installed  ## linters, types, then the whole suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

test-versions: $(VENV)/installed  ## run the core tests under several PyTorch versions: VERSIONS="oldest 2.8 2.11 newest", OLD_PYTHON=python3.10
	$(BIN)/python tests/versions.py --only $(VERSIONS) --python $(OLD_PYTHON)

docs: $(VENV)/installed  ## the pages as a site in build/docs
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[check]"
	touch $@

clean:
	rm -rf $(VENV) .venvs build dist *.egg-info
